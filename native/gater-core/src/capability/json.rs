//! JSON read as strictly as the application reads it (`esdb_gater_json`), so that no token is valid
//! for one of the two programs and malformed for the other. By default, serde accepts an array of
//! values for an object and `null` for a missing value, and it accepts any number and a repeated
//! key in a value that is ignored.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A value that must be written as an object and not as an array of its values.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// Deserializes a value that may be missing but must not be `null`.
pub fn present<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(deserializer).map(Some)
}

/// An object with any members, which are validated and then discarded.
#[derive(Debug, Default)]
pub struct Facts;

impl<'de> Deserialize<'de> for Facts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FactVisitor).map(|Fact| Self)
    }
}

/// A value that is validated and then discarded: text, integer of 64 bits, boolean, null, or an
/// array or object of such values in which no key occurs twice.
struct Fact;

impl<'de> Deserialize<'de> for Fact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FactVisitor)
    }
}

struct FactVisitor;

impl<'de> Visitor<'de> for FactVisitor {
    type Value = Fact;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value without fractions, numbers beyond 64 bits and repeated keys")
    }

    fn visit_unit<E>(self) -> Result<Fact, E> {
        Ok(Fact)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Fact, E> {
        Ok(Fact)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Fact, E> {
        Ok(Fact)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Fact, E> {
        i64::try_from(number).map(|_| Fact).map_err(E::custom)
    }

    fn visit_str<E>(self, _: &str) -> Result<Fact, E> {
        Ok(Fact)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Fact, A::Error> {
        while let Some(Fact) = elements.next_element()? {}
        Ok(Fact)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Fact, A::Error> {
        let mut keys = HashSet::new();
        while let Some((key, Fact)) = members.next_entry::<String, Fact>()? {
            if !keys.insert(key) {
                return Err(A::Error::custom("a key occurs twice"));
            }
        }
        Ok(Fact)
    }
}
