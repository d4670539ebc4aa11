//! Displays terms as the Erlang shell does.

use std::fmt::{self, Display, Formatter, Write};

use super::{BigInteger, Opaque, Term};
use crate::{Atom, Reader, tag};

/// Displays the term in the shell's form on one line. Pids and references show the name of the node
/// instead of a number, which would mean nothing on another node: `<name@host.12.0>`.
impl Display for Term {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::BigInteger(value) => big(f, value),
            Self::Float(value) => float(f, value.get()),
            Self::Atom(name) => atom(f, name),
            Self::Reference(reference) => {
                write!(f, "#Ref<{}", reference.node())?;
                reference.words().iter().rev().try_for_each(|word| write!(f, ".{word}"))?;
                f.write_char('>')
            }
            Self::Opaque(term) => opaque(f, term),
            Self::Pid(pid) => write!(f, "<{}.{}.{}>", pid.node, pid.id, pid.serial),
            Self::Tuple(elements) => {
                f.write_char('{')?;
                separated(f, elements)?;
                f.write_char('}')
            }
            Self::Map(pairs) => {
                f.write_str("#{")?;
                for (at, (key, value)) in pairs.iter().enumerate() {
                    write!(f, "{}{key} => {value}", if at > 0 { "," } else { "" })?;
                }
                f.write_char('}')
            }
            Self::List(elements) => match text(elements) {
                Some(text) => quoted(f, &text, '"'),
                None => {
                    f.write_char('[')?;
                    separated(f, elements)?;
                    f.write_char(']')
                }
            },
            Self::ImproperList(elements, tail) if elements.is_empty() => tail.fmt(f),
            Self::ImproperList(elements, tail) => {
                f.write_char('[')?;
                separated(f, elements)?;
                write!(f, "|{tail}]")
            }
            Self::Binary(bytes) => binary(f, bytes),
        }
    }
}

fn separated(f: &mut Formatter<'_>, elements: &[Term]) -> fmt::Result {
    for (at, element) in elements.iter().enumerate() {
        write!(f, "{}{element}", if at > 0 { "," } else { "" })?;
    }
    Ok(())
}

/// Returns whether Erlang's shell displays the byte as text without `+pc unicode`, which it does
/// for printable Latin-1.
fn is_printable(byte: u8) -> bool {
    matches!(byte, 8..=13 | 27 | 32..=126 | 160..)
}

/// Returns the text of a list that is displayed as text, which is not empty and entirely printable.
fn text(elements: &[Term]) -> Option<String> {
    let char = |element: &Term| {
        let byte = u8::try_from(element.as_integer()?).ok()?;
        is_printable(byte).then(|| char::from(byte))
    };
    if elements.is_empty() { None } else { elements.iter().map(char).collect() }
}

fn quoted(f: &mut Formatter<'_>, text: &str, quote: char) -> fmt::Result {
    f.write_char(quote)?;
    for char in text.chars() {
        match char {
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\u{8}' => f.write_str("\\b")?,
            '\u{b}' => f.write_str("\\v")?,
            '\u{c}' => f.write_str("\\f")?,
            '\u{1b}' => f.write_str("\\e")?,
            '\\' => f.write_str("\\\\")?,
            char if char == quote => write!(f, "\\{quote}")?,
            char if char.is_control() => write!(f, "\\x{{{:X}}}", u32::from(char))?,
            char => f.write_char(char)?,
        }
    }
    f.write_char(quote)
}

/// The words that are atoms only in quotes.
const RESERVED: [&str; 29] = [
    "after", "and", "andalso", "band", "begin", "bnot", "bor", "bsl", "bsr", "bxor", "case",
    "catch", "cond", "div", "else", "end", "fun", "if", "let", "maybe", "not", "of", "or",
    "orelse", "receive", "rem", "try", "when", "xor",
];

fn atom(f: &mut Formatter<'_>, atom: &Atom) -> fmt::Result {
    let text = atom.as_str();
    let starts = |char: char| char.is_lowercase() && u32::from(char) < 256;
    let goes_on = |char: char| {
        char == '_' || char == '@' || (char.is_alphanumeric() && u32::from(char) < 256)
    };
    // `else` and `maybe` are reserved since OTP 25 only if the feature is enabled.
    let reserved = RESERVED.contains(&text) && !matches!(text, "else" | "maybe");
    if text.starts_with(starts) && text.chars().all(goes_on) && !reserved {
        f.write_str(text)
    } else {
        quoted(f, text, '\'')
    }
}

fn float(f: &mut Formatter<'_>, value: f64) -> fmt::Result {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-5..1e16).contains(&magnitude) {
        let text = format!("{value:e}");
        // `1e20` is not valid Erlang: the mantissa needs a point.
        match text.split_once('e') {
            Some((mantissa, exponent)) if !mantissa.contains('.') => {
                write!(f, "{mantissa}.0e{exponent}")
            }
            _ => f.write_str(&text),
        }
    } else {
        write!(f, "{value:?}")
    }
}

fn binary(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_str("<<")?;
    if !bytes.is_empty() && bytes.iter().all(|byte| is_printable(*byte)) {
        quoted(f, &bytes.iter().copied().map(char::from).collect::<String>(), '"')?;
    } else {
        numbers(f, bytes)?;
    }
    f.write_str(">>")
}

fn numbers(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for (at, byte) in bytes.iter().enumerate() {
        write!(f, "{}{byte}", if at > 0 { "," } else { "" })?;
    }
    Ok(())
}

/// Displays an integer in decimal up to 1,024 bytes, and in hexadecimal above, where the conversion
/// would take long.
fn big(f: &mut Formatter<'_>, value: &BigInteger) -> fmt::Result {
    const DECIMAL_UP_TO_BYTES: usize = 1024;
    const BASE: u64 = 1_000_000_000;
    if value.is_negative() {
        f.write_char('-')?;
    }
    let mut digits: Vec<u8> = value.magnitude().iter().rev().copied().collect();
    if digits.len() > DECIMAL_UP_TO_BYTES {
        f.write_str("16#")?;
        return digits.iter().try_for_each(|byte| write!(f, "{byte:02X}"));
    }
    let mut groups = Vec::new();
    while digits.iter().any(|digit| *digit != 0) {
        let mut rest = 0;
        for digit in &mut digits {
            let current = rest << 8 | u64::from(*digit);
            *digit = (current / BASE) as u8;
            rest = current % BASE;
        }
        groups.push(rest);
    }
    for (at, group) in groups.iter().rev().enumerate() {
        if at == 0 { write!(f, "{group}")? } else { write!(f, "{group:09}")? }
    }
    Ok(())
}

fn opaque(f: &mut Formatter<'_>, term: &Opaque) -> fmt::Result {
    match term.as_bytes() {
        [tag::EXPORT, rest @ ..] => {
            let mut reader = Reader::new(rest);
            let mut part = || reader.skip().ok().and_then(|part| Term::decode(part).ok());
            match (part(), part(), part()) {
                (Some(module), Some(function), Some(arity)) => {
                    write!(f, "fun {module}:{function}/{arity}")
                }
                _ => f.write_str("#Fun<>"),
            }
        }
        [tag::BIT_BINARY, _, _, _, _, bits, bytes @ ..] => {
            f.write_str("<<")?;
            if let Some((last, whole)) = bytes.split_last() {
                numbers(f, whole)?;
                let comma = if whole.is_empty() { "" } else { "," };
                let shift = 8_u32.saturating_sub((*bits).into());
                write!(f, "{comma}{}:{bits}", last.checked_shr(shift).unwrap_or(0))?;
            }
            f.write_str(">>")
        }
        [tag::NEW_PORT | tag::V4_PORT, ..] => f.write_str("#Port<>"),
        _ => f.write_str("#Fun<>"),
    }
}
