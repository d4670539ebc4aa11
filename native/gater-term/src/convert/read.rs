//! From terms to values.

use std::fmt::{self, Write};

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::{ConvertError, UNDEFINED};
use crate::Term;
use crate::term::BigInteger;

/// The other atom for no value, Elixir's.
const NIL: &str = "nil";
/// The number of characters of a term that an error repeats.
const REPEATED_CHARS: usize = 80;

/// The first characters of a text. More are refused, so that a long term is not written in full.
struct Beginning(String);

impl Write for Beginning {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = REPEATED_CHARS.saturating_sub(self.0.chars().count());
        self.0.extend(text.chars().take(room));
        if text.chars().nth(room).is_some() { Err(fmt::Error) } else { Ok(()) }
    }
}

/// A term that is read as a value.
#[derive(Clone, Copy)]
pub struct Value<'a>(pub &'a Term);

impl<'a> Value<'a> {
    fn unexpected(self, expected: &'static str) -> ConvertError {
        let mut found = Beginning(String::new());
        if write!(found, "{}", self.0).is_err() {
            found.0.push_str("...");
        }
        ConvertError::Unexpected { expected, found: found.0 }
    }

    fn is_none(self) -> bool {
        matches!(self.0.as_atom(), Some(UNDEFINED | NIL))
    }

    /// Returns the text of a binary or an atom.
    fn text(self) -> Result<&'a str, ConvertError> {
        match self.0 {
            Term::Atom(atom) => Ok(atom.as_str()),
            Term::Binary(bytes) => {
                std::str::from_utf8(bytes).map_err(|_| self.unexpected("a binary in UTF-8"))
            }
            _ => Err(self.unexpected("a binary or an atom")),
        }
    }

    fn elements(
        self,
        elements: &'a [Term],
    ) -> SeqDeserializer<impl Iterator<Item = Self>, ConvertError> {
        SeqDeserializer::new(elements.iter().map(Value))
    }
}

impl<'a> IntoDeserializer<'a, ConvertError> for Value<'a> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

fn big<'a, V: Visitor<'a>>(
    value: &BigInteger,
    visitor: V,
) -> Option<Result<V::Value, ConvertError>> {
    let mut bytes = [0; 16];
    bytes.get_mut(..value.magnitude().len())?.copy_from_slice(value.magnitude());
    let magnitude = u128::from_le_bytes(bytes);
    Some(match (value.is_negative(), u64::try_from(magnitude)) {
        (false, Ok(small)) => visitor.visit_u64(small),
        (false, Err(_)) => visitor.visit_u128(magnitude),
        (true, _) => {
            let value = 0_i128.checked_sub_unsigned(magnitude)?;
            visitor.visit_i128(value)
        }
    })
}

impl<'de> Deserializer<'de> for Value<'de> {
    type Error = ConvertError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        match self.0 {
            Term::Integer(value) => visitor.visit_i64(*value),
            Term::BigInteger(value) => big(value, visitor)
                .unwrap_or_else(|| Err(self.unexpected("an integer of at most 128 bits"))),
            Term::Float(value) => visitor.visit_f64(value.get()),
            Term::Atom(atom) => match atom.as_str() {
                "true" => visitor.visit_bool(true),
                "false" => visitor.visit_bool(false),
                UNDEFINED | NIL => visitor.visit_unit(),
                text => visitor.visit_borrowed_str(text),
            },
            Term::Binary(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => visitor.visit_borrowed_str(text),
                Err(_) => visitor.visit_borrowed_bytes(bytes),
            },
            Term::List(elements) | Term::Tuple(elements) => {
                visitor.visit_seq(self.elements(elements))
            }
            Term::Map(_) => self.deserialize_map(visitor),
            Term::Pid(_) | Term::Reference(_) | Term::Opaque(_) | Term::ImproperList(..) => {
                Err(self.unexpected("a term that serde has a type for"))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        if self.is_none() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        if self.is_none() { visitor.visit_unit() } else { Err(self.unexpected(UNDEFINED)) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        visitor.visit_newtype_struct(self)
    }

    // An atom that means something else among terms is a text where a text is needed.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        visitor.visit_borrowed_str(self.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        match self.0 {
            Term::Binary(bytes) => visitor.visit_borrowed_bytes(bytes),
            _ => Err(self.unexpected("a binary")),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        match self.0 {
            Term::List(elements) => visitor.visit_seq(self.elements(elements)),
            Term::Binary(bytes) => visitor.visit_seq(SeqDeserializer::new(bytes.iter().copied())),
            _ => Err(self.unexpected("a list")),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        match self.0 {
            Term::Tuple(elements) => {
                let mut elements = self.elements(elements);
                let value = visitor.visit_seq(&mut elements)?;
                elements.end()?;
                Ok(value)
            }
            _ => Err(self.unexpected("a tuple")),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ConvertError> {
        match self.0 {
            Term::Map(pairs) => {
                let pairs = pairs.iter().map(|(key, value)| (Value(key), Value(value)));
                visitor.visit_map(MapDeserializer::new(pairs))
            }
            _ => Err(self.unexpected("a map")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        match self.0 {
            Term::Tuple(elements) => match elements.split_first() {
                Some((name, fields)) => visitor.visit_enum(Variant { name: Value(name), fields }),
                None => Err(self.unexpected("a variant")),
            },
            _ => visitor.visit_enum(Variant { name: self, fields: &[] }),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(
        self,
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64
    }
}

/// A variant: its name and the fields that follow it in the tuple.
struct Variant<'a> {
    name: Value<'a>,
    fields: &'a [Term],
}

impl<'a> EnumAccess<'a> for Variant<'a> {
    type Error = ConvertError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'a>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Self), ConvertError> {
        Ok((seed.deserialize(self.name)?, self))
    }
}

impl<'a> Variant<'a> {
    fn only_field(&self) -> Result<Value<'a>, ConvertError> {
        match self.fields {
            [field] => Ok(Value(field)),
            _ => Err(self.name.unexpected("a variant with one field")),
        }
    }
}

impl<'a> VariantAccess<'a> for Variant<'a> {
    type Error = ConvertError;

    fn unit_variant(self) -> Result<(), ConvertError> {
        if self.fields.is_empty() {
            Ok(())
        } else {
            Err(self.name.unexpected("a variant without fields"))
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'a>>(
        self,
        seed: T,
    ) -> Result<T::Value, ConvertError> {
        seed.deserialize(self.only_field()?)
    }

    fn tuple_variant<V: Visitor<'a>>(
        self,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        let mut elements = self.name.elements(self.fields);
        let value = visitor.visit_seq(&mut elements)?;
        elements.end()?;
        Ok(value)
    }

    fn struct_variant<V: Visitor<'a>>(
        self,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ConvertError> {
        self.only_field()?.deserialize_map(visitor)
    }
}
