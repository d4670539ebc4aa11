//! Numbers of any size, compared as Erlang does.

use std::cmp::Ordering;

use super::{ReadError, Reader, tag};

/// The two orders of Erlang terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The order of `<`, `==` and `lists:sort/1`.
    General,
    /// The order of map keys, in which only identical terms are equal.
    Keys,
}

/// A number that was read from its encoding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number<'a> {
    /// An integer of 64 bits.
    Small(i64),
    /// An integer beyond 64 bits. The magnitude is little-endian and its last byte is not 0.
    Big {
        /// Whether the integer is below zero.
        negative: bool,
        /// The magnitude of the integer.
        magnitude: &'a [u8],
    },
    /// A finite float.
    Float(f64),
}

/// Returns the length of the magnitude of the next term in bytes, or 0 unless the term is an
/// integer of variable length.
pub fn length(reader: &Reader<'_>) -> Result<usize, ReadError> {
    let mut ahead = *reader;
    match ahead.u8()? {
        tag::SMALL_BIG => Ok(usize::from(ahead.u8()?)),
        tag::LARGE_BIG => ahead.len32(),
        _ => Ok(0),
    }
}

/// Reads a number.
pub fn read<'a>(reader: &mut Reader<'a>) -> Result<Number<'a>, ReadError> {
    match reader.peek_tag()? {
        tag::NEW_FLOAT => {
            reader.u8()?;
            Ok(Number::Float(f64::from_be_bytes(reader.array()?)))
        }
        tag @ (tag::SMALL_BIG | tag::LARGE_BIG) => {
            let mut small = *reader;
            if let Ok(value) = small.integer() {
                *reader = small;
                return Ok(Number::Small(value));
            }
            reader.u8()?;
            let len = match tag {
                tag::SMALL_BIG => usize::from(reader.u8()?),
                _ => reader.len32()?,
            };
            let negative = reader.u8()? != 0;
            let magnitude = reader.bytes(len)?;
            let used = magnitude.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            Ok(Number::Big { negative, magnitude: magnitude.get(..used).unwrap_or_default() })
        }
        _ => reader.integer().map(Number::Small),
    }
}

impl Number<'_> {
    /// Compares two numbers in one of the two orders. Nothing is rounded: integers of any size and
    /// floats are compared by their exact values.
    pub fn compare(&self, other: &Self, order: Order) -> Ordering {
        use Number::{Big, Float, Small};
        match (self, other) {
            (Float(a), Float(b)) => float(*a, *b, order),
            (Float(_), _) if order == Order::Keys => Ordering::Greater,
            (_, Float(_)) if order == Order::Keys => Ordering::Less,
            (Float(a), b) => b.to_float(*a).reverse(),
            (a, Float(b)) => a.to_float(*b),
            (Small(a), Small(b)) => a.cmp(b),
            (Small(_), Big { negative, .. }) => below_or_above(!negative),
            (Big { negative, .. }, Small(_)) => below_or_above(*negative),
            (Big { negative: false, magnitude: a }, Big { negative: false, magnitude: b }) => {
                magnitudes(a, b)
            }
            (Big { negative: true, magnitude: a }, Big { negative: true, magnitude: b }) => {
                magnitudes(b, a)
            }
            (Big { negative, .. }, Big { .. }) => below_or_above(*negative),
        }
    }

    /// Compares an integer with a float.
    fn to_float(self, float: f64) -> Ordering {
        const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
        match self {
            Number::Small(_) if float >= TWO_TO_63 => Ordering::Less,
            Number::Small(_) if float < -TWO_TO_63 => Ordering::Greater,
            Number::Small(value) => {
                let whole = float.trunc();
                value.cmp(&(whole as i64)).then(below_or_above_fraction(float - whole))
            }
            Number::Big { negative, magnitude } => {
                let outcome = if float.is_sign_negative() != negative || float == 0.0 {
                    Ordering::Greater
                } else {
                    magnitude_to_float(magnitude, float.abs())
                };
                if negative { outcome.reverse() } else { outcome }
            }
            Number::Float(value) => value.total_cmp(&float),
        }
    }
}

/// Compares two floats. From OTP 27 on the two zeros are different keys, with -0.0 before 0.0.
fn float(a: f64, b: f64, order: Order) -> Ordering {
    match order {
        Order::General => a.partial_cmp(&b).unwrap_or(Ordering::Equal),
        Order::Keys => a.total_cmp(&b),
    }
}

fn below_or_above(below: bool) -> Ordering {
    if below { Ordering::Less } else { Ordering::Greater }
}

/// Compares an integer with the sum of itself and `fraction`.
fn below_or_above_fraction(fraction: f64) -> Ordering {
    0.0.partial_cmp(&fraction).unwrap_or(Ordering::Equal)
}

fn magnitudes(a: &[u8], b: &[u8]) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.iter().rev().cmp(b.iter().rev()))
}

/// Compares a magnitude above 2^63 with a positive float.
fn magnitude_to_float(magnitude: &[u8], float: f64) -> Ordering {
    const MANTISSA_BITS: u32 = 52;
    let bits = float.to_bits();
    let exponent = (bits >> MANTISSA_BITS) as i32 - 1075;
    if exponent < 0 {
        // The float is below 2^53.
        return Ordering::Greater;
    }
    let mantissa = (bits & ((1 << MANTISSA_BITS) - 1)) | 1 << MANTISSA_BITS;
    let mut exact = [0; 136];
    let at = exponent as usize / 8;
    let shifted = u128::from(mantissa) << (exponent % 8);
    for (to, from) in exact.iter_mut().skip(at).zip(shifted.to_le_bytes()) {
        *to = from;
    }
    let used = exact.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    magnitudes(magnitude, exact.get(..used).unwrap_or_default())
}
