-- For how many days decided conflicts of a collection are kept; none: as many as the control plane keeps them otherwise.
ALTER TABLE document_collections ADD COLUMN conflict_days BIGINT;
CREATE INDEX document_conflicts_collection ON document_conflicts (tenant, collection, state, at);
