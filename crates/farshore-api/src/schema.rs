//! How the generic envelopes appear in the OpenAPI document: a schema of its own for each kind, named after it.
//!
//! `Object<DeviceSpec, DeviceStatus>` is `Device`, a list of them is `List_Device`. Derived, all objects would share one name.

use std::borrow::Cow;

use farshore_domain::object::Metadata;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Array, ObjectBuilder, Type};
use utoipa::openapi::{Ref, RefOr, Schema};
// Hidden in utoipa's documentation, and what its macros ask of a generic type that is written out in `body = List<Device>`.
use utoipa::__dev::ComposeSchema;

use crate::{List, ListMetadata, Object};

type Schemas = Vec<(String, RefOr<Schema>)>;

fn reference<T: ToSchema>() -> Ref {
    Ref::from_schema_name(T::name())
}

fn add<T: ToSchema>(schemas: &mut Schemas) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

impl<S: ToSchema, T: ToSchema> ComposeSchema for Object<S, T> {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        let word = || ObjectBuilder::new().schema_type(Type::String);
        ObjectBuilder::new()
            .description(Some("An object as the API shows it, and as YAML holds it."))
            .property("apiVersion", word().description(Some("`farshore.dev/v1`.")))
            .property("kind", word())
            .property("metadata", reference::<Metadata>())
            .property("spec", reference::<S>())
            .property("status", reference::<T>())
            .required("apiVersion")
            .required("kind")
            .required("metadata")
            .required("spec")
            .required("status")
            .into()
    }
}

impl<S: ToSchema, T: ToSchema> ToSchema for Object<S, T> {
    /// The kind: `DeviceSpec` belongs to `Device`. A specification that is called like its kind gives `…Object`.
    fn name() -> Cow<'static, str> {
        let spec = S::name();
        Cow::Owned(spec.strip_suffix("Spec").map_or_else(|| format!("{spec}Object"), str::to_owned))
    }

    fn schemas(schemas: &mut Schemas) {
        add::<Metadata>(schemas);
        add::<S>(schemas);
        add::<T>(schemas);
    }
}

impl<T: ToSchema> ComposeSchema for List<T> {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        ObjectBuilder::new()
            .description(Some("One page of a list."))
            .property("items", Array::new(reference::<T>()))
            .property("metadata", reference::<ListMetadata>())
            .required("items")
            .required("metadata")
            .into()
    }
}

impl<T: ToSchema> ToSchema for List<T> {
    /// utoipa's macros add the name of what it is a list of.
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("List")
    }

    fn schemas(schemas: &mut Schemas) {
        add::<T>(schemas);
        add::<ListMetadata>(schemas);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{claim, device, rollout};

    #[test]
    fn each_kind_has_a_name_of_its_own() {
        assert_eq!(device::Device::name(), "Device");
        assert_eq!(rollout::Rollout::name(), "Rollout");
        assert_eq!(claim::ClaimRule::name(), "ClaimRuleObject");
    }
}
