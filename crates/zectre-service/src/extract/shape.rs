//! Whether a type is written as an object. serde also fills a struct from a list, field by field in the order of its
//! declaration: nobody means that, and an empty list would pass for an object without fields.

use serde::{Deserialize, Deserializer, de};
use std::fmt;

/// Whether `T` reads an object, told by what it asks its deserializer for.
pub(super) fn wants_object<'de, T: Deserialize<'de>>() -> bool {
    matches!(T::deserialize(Asked), Err(Wants::Object))
}

struct Asked;

#[derive(Debug)]
enum Wants {
    Object,
    Other,
}

impl fmt::Display for Wants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("only the shape was asked for")
    }
}

impl std::error::Error for Wants {}

impl de::Error for Wants {
    fn custom<M: fmt::Display>(_: M) -> Self {
        Self::Other
    }
}

impl<'de> Deserializer<'de> for Asked {
    type Error = Wants;

    fn deserialize_any<V: de::Visitor<'de>>(self, _: V) -> Result<V::Value, Wants> {
        Err(Wants::Other)
    }

    fn deserialize_map<V: de::Visitor<'de>>(self, _: V) -> Result<V::Value, Wants> {
        Err(Wants::Object)
    }

    fn deserialize_struct<V: de::Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Wants> {
        Err(Wants::Object)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Named {
        _a: Option<u8>,
    }

    #[test]
    fn structs_and_maps_are_objects_and_lists_are_not() {
        assert!(wants_object::<Named>());
        assert!(wants_object::<std::collections::BTreeMap<String, String>>());
        assert!(!wants_object::<Vec<Named>>() && !wants_object::<serde_json::Value>());
    }
}
