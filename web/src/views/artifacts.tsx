/** `/artifacts`: bytes with a digest. */
import { useQuery } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'

import { artifactsQuery } from '~/api/queries'
import { Command, CopyButton } from '~/ui/copy'
import { bytes, count, shortDigest } from '~/ui/number'
import { Empty, Page } from '~/ui/panel'
import { Resource } from '~/ui/resource'
import { Table } from '~/ui/table'
import { Time } from '~/ui/time'

export function Artifacts() {
  const artifacts = useQuery(artifactsQuery)
  return (
    <Page
      title="Artifacts"
      beside={
        artifacts.data && (
          <span className="text-muted">
            {count(artifacts.data.items.length)}, {bytes(artifacts.data.items.reduce((sum, a) => sum + a.size, 0))}
          </span>
        )
      }
      actions={<CopyButton small={false} label="Command" text="farshore get artifacts" />}
    >
      <Resource
        query={artifacts}
        what="artifacts"
        empty={
          <Empty title="No artifacts yet">
            <p>An artifact is the archive of a release for one platform. It is uploaded with its release, in pieces that can be resumed:</p>
            <Command text="farshore release push out/" />
          </Empty>
        }
      >
        {(items) => (
          <Table
            label="Artifacts"
            items={items}
            id={(a) => a.digest}
            columns={[
              { title: 'Name', cell: (a) => <span className="font-medium [overflow-wrap:anywhere]">{a.name || '–'}</span> },
              {
                title: 'Digest',
                wide: true,
                cell: (a) => (
                  <span className="flex items-center gap-1">
                    <span className="font-mono text-sm" title={a.digest}>
                      {shortDigest(a.digest)}
                    </span>
                    <CopyButton text={a.digest} label="Copy" />
                  </span>
                ),
              },
              { title: 'Size', right: true, cell: (a) => bytes(a.size) },
              {
                title: 'Releases',
                cell: (a) =>
                  a.releases.length === 0 ? (
                    <span className="text-muted">none</span>
                  ) : (
                    <Link to="/releases" className="hover:text-accent">
                      {a.releases.join(', ')}
                    </Link>
                  ),
              },
              { title: 'Uploaded', wide: true, right: true, cell: (a) => <Time at={a.createdAt} className="text-muted" /> },
            ]}
          />
        )}
      </Resource>
    </Page>
  )
}
