//! From values to terms.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};

use super::{ConvertError, UNDEFINED, to_term};
use crate::term::{BigInteger, Float};
use crate::{Atom, Term};

type Written = Result<Term, ConvertError>;

/// Makes one term of one value.
pub struct Writer;

/// The elements of a list that are there already.
pub struct List(Vec<Term>);

/// The elements of a tuple that are there already, beginning with the variant if it is one.
pub struct Tuple(Vec<Term>);

/// The pairs of a map that are there already.
pub struct Map {
    /// The variant, if the map is its only field.
    variant: Option<Term>,
    pairs: BTreeMap<Term, Term>,
    /// The key whose value comes next.
    key: Option<Term>,
}

impl Map {
    fn new(variant: Option<Term>) -> Self {
        Self { variant, pairs: BTreeMap::new(), key: None }
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), ConvertError> {
        self.pairs.insert(atom(name)?, to_term(value)?);
        Ok(())
    }

    fn term(self) -> Term {
        let map = Term::Map(self.pairs);
        match self.variant {
            Some(variant) => Term::Tuple(vec![variant, map]),
            None => map,
        }
    }
}

fn atom(name: &str) -> Written {
    Ok(Term::Atom(Atom::new(name)?))
}

fn integer(negative: bool, magnitude: u128) -> Term {
    let small = i64::try_from(magnitude).ok().map(|value| if negative { -value } else { value });
    // The least integer of 64 bits has a magnitude that the greatest has not.
    let least = (negative && magnitude == 1 << 63).then_some(i64::MIN);
    match small.or(least) {
        Some(value) => Term::Integer(value),
        None => Term::BigInteger(BigInteger::new(negative, &magnitude.to_le_bytes())),
    }
}

impl Serializer for Writer {
    type Ok = Term;
    type Error = ConvertError;
    type SerializeSeq = List;
    type SerializeTuple = Tuple;
    type SerializeTupleStruct = Tuple;
    type SerializeTupleVariant = Tuple;
    type SerializeMap = Map;
    type SerializeStruct = Map;
    type SerializeStructVariant = Map;

    fn serialize_bool(self, value: bool) -> Written {
        atom(if value { "true" } else { "false" })
    }

    fn serialize_i8(self, value: i8) -> Written {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Written {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Written {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Written {
        Ok(Term::Integer(value))
    }

    fn serialize_i128(self, value: i128) -> Written {
        Ok(integer(value < 0, value.unsigned_abs()))
    }

    fn serialize_u8(self, value: u8) -> Written {
        self.serialize_i64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Written {
        self.serialize_i64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Written {
        self.serialize_i64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Written {
        self.serialize_u128(value.into())
    }

    fn serialize_u128(self, value: u128) -> Written {
        Ok(integer(false, value))
    }

    fn serialize_f32(self, value: f32) -> Written {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Written {
        let finite = Float::new(value).ok_or_else(|| ConvertError::NotFinite(value.to_string()))?;
        Ok(Term::Float(finite))
    }

    fn serialize_char(self, value: char) -> Written {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Written {
        self.serialize_bytes(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Written {
        Ok(Term::Binary(Bytes::copy_from_slice(value)))
    }

    fn serialize_none(self) -> Written {
        atom(UNDEFINED)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Written {
        to_term(value)
    }

    fn serialize_unit(self) -> Written {
        atom(UNDEFINED)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Written {
        atom(UNDEFINED)
    }

    fn serialize_unit_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
    ) -> Written {
        atom(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        value: &T,
    ) -> Written {
        to_term(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Written {
        Ok(Term::Tuple(vec![atom(variant)?, to_term(value)?]))
    }

    fn serialize_seq(self, _length: Option<usize>) -> Result<List, ConvertError> {
        Ok(List(Vec::new()))
    }

    fn serialize_tuple(self, _length: usize) -> Result<Tuple, ConvertError> {
        Ok(Tuple(Vec::new()))
    }

    fn serialize_tuple_struct(
        self,
        _name: &'static str,
        _length: usize,
    ) -> Result<Tuple, ConvertError> {
        Ok(Tuple(Vec::new()))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Tuple, ConvertError> {
        Ok(Tuple(vec![atom(variant)?]))
    }

    fn serialize_map(self, _length: Option<usize>) -> Result<Map, ConvertError> {
        Ok(Map::new(None))
    }

    fn serialize_struct(self, _name: &'static str, _length: usize) -> Result<Map, ConvertError> {
        Ok(Map::new(None))
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        _length: usize,
    ) -> Result<Map, ConvertError> {
        Ok(Map::new(Some(atom(variant)?)))
    }
}

impl SerializeSeq for List {
    type Ok = Term;
    type Error = ConvertError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ConvertError> {
        self.0.push(to_term(value)?);
        Ok(())
    }

    fn end(self) -> Written {
        Ok(Term::List(self.0))
    }
}

impl SerializeTuple for Tuple {
    type Ok = Term;
    type Error = ConvertError;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ConvertError> {
        self.0.push(to_term(value)?);
        Ok(())
    }

    fn end(self) -> Written {
        Ok(Term::Tuple(self.0))
    }
}

impl SerializeTupleStruct for Tuple {
    type Ok = Term;
    type Error = ConvertError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ConvertError> {
        SerializeTuple::serialize_element(self, value)
    }

    fn end(self) -> Written {
        SerializeTuple::end(self)
    }
}

impl SerializeTupleVariant for Tuple {
    type Ok = Term;
    type Error = ConvertError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ConvertError> {
        SerializeTuple::serialize_element(self, value)
    }

    fn end(self) -> Written {
        SerializeTuple::end(self)
    }
}

impl SerializeMap for Map {
    type Ok = Term;
    type Error = ConvertError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ConvertError> {
        self.key = Some(to_term(key)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ConvertError> {
        let key = self
            .key
            .take()
            .ok_or_else(|| ConvertError::Refused("a value of a map without its key".into()))?;
        self.pairs.insert(key, to_term(value)?);
        Ok(())
    }

    fn end(self) -> Written {
        Ok(self.term())
    }
}

impl SerializeStruct for Map {
    type Ok = Term;
    type Error = ConvertError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), ConvertError> {
        self.field(name, value)
    }

    fn end(self) -> Written {
        Ok(self.term())
    }
}

impl SerializeStructVariant for Map {
    type Ok = Term;
    type Error = ConvertError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), ConvertError> {
        self.field(name, value)
    }

    fn end(self) -> Written {
        Ok(self.term())
    }
}
