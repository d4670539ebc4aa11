//! Finding where a term ends, and whether it decodes.

use crate::ProtocolError;

/// The length of the valid term at the start of `input`.
pub fn term(input: &[u8]) -> Result<usize, ProtocolError> {
    skip(input).ok_or_else(|| ProtocolError::Term("malformed".into()))
}

fn skip(input: &[u8]) -> Option<usize> {
    let mut at = 0_usize;
    let mut left = 1_u64;
    let u8_at = |i: usize| input.get(i).map(|b| usize::from(*b));
    let u16_at = |i: usize| Some(u8_at(i)? << 8 | u8_at(i + 1)?);
    let u32_at = |i: usize| Some(u16_at(i)? << 16 | u16_at(i + 2)?);
    while left > 0 {
        left -= 1;
        let tag = *input.get(at)?;
        at += 1;
        match tag {
            97 => at += 1,
            98 => at += 4,
            70 => at += 8,
            106 => {}
            119 | 115 => at += 1 + u8_at(at)?,
            118 | 100 | 107 => at += 2 + u16_at(at)?,
            109 => at += 4 + u32_at(at)?,
            77 => at += 5 + u32_at(at)?,
            110 => at += 2 + u8_at(at)?,
            111 => at += 5 + u32_at(at)?,
            104 => {
                left += u8_at(at)? as u64;
                at += 1;
            }
            105 => {
                left += u32_at(at)? as u64;
                at += 4;
            }
            108 => {
                left += u32_at(at)? as u64 + 1;
                at += 4;
            }
            116 => {
                left += u32_at(at)? as u64 * 2;
                at += 4;
            }
            88 | 103 | 89 | 102 | 120 | 90 | 114 => {
                let mut tail = match tag {
                    88 | 120 => 12,
                    103 => 9,
                    89 => 8,
                    102 => 5,
                    90 => 4 + 4 * u16_at(at)?,
                    _ => 1 + 4 * u16_at(at)?,
                };
                if tag == 90 || tag == 114 {
                    at += 2;
                }
                tail += match *input.get(at)? {
                    119 | 115 => 2 + u8_at(at + 1)?,
                    _ => 3 + u16_at(at + 1)?,
                };
                at += tail;
            }
            113 => left += 3,
            112 => at += u32_at(at)?,
            _ => return None,
        }
        if at > input.len() {
            return None;
        }
    }
    Some(at)
}
