//! Terms as people type them: JSON, or Erlang.

use std::iter::Peekable;
use std::str::Chars;

use gater_dist::process::Term;
use gater_term::{Atom, Float};
use serde_json::Value;

/// Terms that are inside each other at the most.
const MAX_DEPTH: usize = 64;

/// Why a text is no term.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Something else was expected here.
    #[error("expected {expected} at character {at}")]
    Expected {
        /// What was expected.
        expected: &'static str,
        /// How many characters come before.
        at: usize,
    },
    /// A number that no term of this program holds.
    #[error("the number before character {0} is too large")]
    Number(usize),
    /// A text that is too long for an atom.
    #[error("an atom has 255 characters at most")]
    Atom,
    /// Terms are too deep inside each other.
    #[error("terms are nested more than {MAX_DEPTH} deep")]
    TooDeep,
}

/// Reads JSON if `text` is some, and else a term of Erlang. Of JSON, texts and keys become binaries
/// and `null` the atom.
pub fn parse(text: &str) -> Result<Term, TextError> {
    match serde_json::from_str::<Value>(text) {
        Ok(value) => of_json(&value, 0),
        Err(_) => parse_erlang(text),
    }
}

fn of_json(value: &Value, depth: usize) -> Result<Term, TextError> {
    if depth > MAX_DEPTH {
        return Err(TextError::TooDeep);
    }
    Ok(match value {
        Value::Null => Term::atom("null").map_err(|_| TextError::Atom)?,
        Value::Bool(value) => Term::from(*value),
        Value::String(text) => Term::from(text.as_str()),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(integer), _, _) => Term::from(integer),
            (_, Some(integer), _) => Term::from(integer),
            (_, _, float) => {
                float.and_then(Float::new).map(Term::Float).ok_or(TextError::Number(0))?
            }
        },
        Value::Array(values) => {
            Term::List(values.iter().map(|it| of_json(it, depth + 1)).collect::<Result<_, _>>()?)
        }
        Value::Object(pairs) => {
            let pairs = pairs
                .iter()
                .map(|(key, value)| Ok((Term::from(key.as_str()), of_json(value, depth + 1)?)));
            Term::Map(pairs.collect::<Result<_, _>>()?)
        }
    })
}

/// Reads one term of Erlang, with or without a full stop behind it.
pub fn parse_erlang(text: &str) -> Result<Term, TextError> {
    let mut parser = Parser { chars: text.chars().peekable(), at: 0 };
    let term = parser.term(0)?;
    parser.skip();
    if parser.chars.peek() == Some(&'.') {
        parser.next();
        parser.skip();
    }
    match parser.chars.peek() {
        None => Ok(term),
        Some(_) => parser.expected("the end"),
    }
}

struct Parser<'a> {
    chars: Peekable<Chars<'a>>,
    at: usize,
}

impl Parser<'_> {
    fn next(&mut self) -> Option<char> {
        let char = self.chars.next()?;
        self.at += 1;
        Some(char)
    }

    fn skip(&mut self) {
        while self.chars.peek().is_some_and(|char| char.is_whitespace()) {
            self.next();
        }
    }

    fn expected<T>(&self, expected: &'static str) -> Result<T, TextError> {
        Err(TextError::Expected { expected, at: self.at })
    }

    /// Takes `wanted` after white space, if it comes next.
    fn takes(&mut self, wanted: char) -> bool {
        self.skip();
        let there = self.chars.peek() == Some(&wanted);
        if there {
            self.next();
        }
        there
    }

    fn need(&mut self, wanted: char, expected: &'static str) -> Result<(), TextError> {
        if self.takes(wanted) { Ok(()) } else { self.expected(expected) }
    }

    fn term(&mut self, depth: usize) -> Result<Term, TextError> {
        if depth > MAX_DEPTH {
            return Err(TextError::TooDeep);
        }
        self.skip();
        match self.chars.peek().copied() {
            Some('{') => {
                self.next();
                Ok(Term::Tuple(self.elements('}', "a comma or }", depth)?))
            }
            Some('[') => self.list(depth),
            Some('#') => self.map(depth),
            Some('<') => self.binary(),
            Some('"') => {
                self.next();
                Ok(Term::charlist(&self.quoted('"')?))
            }
            Some('\'') => {
                self.next();
                let text = self.quoted('\'')?;
                Term::atom(&text).map_err(|_| TextError::Atom)
            }
            Some('-' | '+' | '0'..='9') => self.number(),
            Some('a'..='z') => self.atom(),
            _ => self.expected("a term"),
        }
    }

    fn elements(
        &mut self,
        end: char,
        expected: &'static str,
        depth: usize,
    ) -> Result<Vec<Term>, TextError> {
        let mut elements = Vec::new();
        if self.takes(end) {
            return Ok(elements);
        }
        loop {
            elements.push(self.term(depth + 1)?);
            if self.takes(end) {
                return Ok(elements);
            }
            self.need(',', expected)?;
        }
    }

    fn list(&mut self, depth: usize) -> Result<Term, TextError> {
        self.next();
        let mut elements = Vec::new();
        if self.takes(']') {
            return Ok(Term::List(elements));
        }
        loop {
            elements.push(self.term(depth + 1)?);
            if self.takes(']') {
                return Ok(Term::List(elements));
            }
            if self.takes('|') {
                let tail = self.term(depth + 1)?;
                self.need(']', "]")?;
                return Ok(match tail {
                    Term::List(rest) => Term::List(elements.into_iter().chain(rest).collect()),
                    tail => Term::ImproperList(elements, Box::new(tail)),
                });
            }
            self.need(',', "a comma, | or ]")?;
        }
    }

    fn map(&mut self, depth: usize) -> Result<Term, TextError> {
        self.next();
        self.need('{', "{ after #")?;
        let mut pairs = Vec::new();
        if self.takes('}') {
            return Ok(Term::Map(pairs.into_iter().collect()));
        }
        loop {
            let key = self.term(depth + 1)?;
            self.need('=', "=>")?;
            match self.next() {
                Some('>') => {}
                _ => return self.expected("=>"),
            }
            pairs.push((key, self.term(depth + 1)?));
            if self.takes('}') {
                return Ok(Term::Map(pairs.into_iter().collect()));
            }
            self.need(',', "a comma or }")?;
        }
    }

    /// `<<"text">>`, `<<"text"/utf8>>` and `<<1, 2>>`.
    fn binary(&mut self) -> Result<Term, TextError> {
        self.next();
        self.need('<', "<<")?;
        let mut bytes = Vec::new();
        loop {
            self.skip();
            match self.chars.peek().copied() {
                Some('>') => break,
                Some('"') => {
                    self.next();
                    let text = self.quoted('"')?;
                    if self.takes('/') {
                        let kind: String = std::iter::from_fn(|| {
                            self.chars.next_if(|char| char.is_ascii_alphanumeric())
                        })
                        .collect();
                        self.at += kind.len();
                        if kind != "utf8" {
                            return self.expected("utf8");
                        }
                        bytes.extend(text.bytes());
                    } else {
                        for char in text.chars() {
                            match u8::try_from(u32::from(char)) {
                                Ok(byte) => bytes.push(byte),
                                Err(_) => return self.expected("/utf8 after such a text"),
                            }
                        }
                    }
                }
                Some('0'..='9') => {
                    let byte = self.number()?.as_integer().and_then(|it| u8::try_from(it).ok());
                    match byte {
                        Some(byte) => bytes.push(byte),
                        None => return self.expected("a byte, 0 to 255"),
                    }
                }
                _ => return self.expected("a text, a byte or >>"),
            }
            if !self.takes(',') {
                break;
            }
        }
        self.need('>', ">>")?;
        self.need('>', ">>")?;
        Ok(Term::Binary(bytes.into()))
    }

    fn quoted(&mut self, end: char) -> Result<String, TextError> {
        let mut text = String::new();
        loop {
            match self.next() {
                Some(char) if char == end => return Ok(text),
                Some('\\') => match self.next() {
                    Some('n') => text.push('\n'),
                    Some('r') => text.push('\r'),
                    Some('t') => text.push('\t'),
                    Some('e') => text.push('\u{1b}'),
                    Some('s') => text.push(' '),
                    Some('0') => text.push('\0'),
                    Some(char @ ('\\' | '"' | '\'')) => text.push(char),
                    _ => return self.expected("one of n r t e s 0 \\ \" ' after a backslash"),
                },
                Some(char) => text.push(char),
                None => return self.expected("the end of the text"),
            }
        }
    }

    fn atom(&mut self) -> Result<Term, TextError> {
        let mut text = String::new();
        while let Some(char) =
            self.chars.next_if(|char| char.is_alphanumeric() || matches!(char, '_' | '@'))
        {
            text.push(char);
        }
        self.at += text.chars().count();
        Atom::new(&text).map(Term::Atom).map_err(|_| TextError::Atom)
    }

    fn number(&mut self) -> Result<Term, TextError> {
        let mut text = String::new();
        let mut is_float = false;
        while let Some(char) = self.chars.peek().copied() {
            let sign_of_exponent = matches!(char, '+' | '-') && text.ends_with(['e', 'E']);
            let taken = match char {
                '0'..='9' | '_' => true,
                '+' | '-' => text.is_empty() || sign_of_exponent,
                '.' => {
                    // A full stop ends the term, unless a digit follows.
                    let mut ahead = self.chars.clone();
                    ahead.next();
                    let point = !is_float && ahead.peek().is_some_and(char::is_ascii_digit);
                    is_float |= point;
                    point
                }
                'e' | 'E' => is_float && !text.contains(['e', 'E']),
                _ => false,
            };
            if !taken {
                break;
            }
            self.next();
            if char != '_' {
                text.push(char);
            }
        }
        if is_float {
            let value = text.parse().ok().and_then(Float::new);
            return value.map(Term::Float).ok_or(TextError::Number(self.at));
        }
        if let Ok(integer) = text.parse::<i64>() {
            return Ok(Term::Integer(integer));
        }
        text.parse::<u64>().map(Term::from).map_err(|_| TextError::Number(self.at))
    }
}

#[cfg(test)]
mod tests {
    use gater_dist::term;

    use super::*;

    #[test]
    fn json_becomes_binaries_numbers_and_maps() {
        assert_eq!(parse(r#"{"id": 1, "ok": true}"#), Ok(term!(#{"id" => 1, "ok" => true})));
        assert_eq!(parse(r#"[null, "é", -5]"#), Ok(term!([null, "é", (-5)])));
        assert_eq!(parse("18446744073709551615"), Ok(Term::from(u64::MAX)));
        assert_eq!(parse("1.5"), Ok(Term::Float(Float::new(1.5).unwrap())));
    }

    #[test]
    fn terms_of_erlang_are_read_as_its_shell_does() {
        let name = Term::atom("app@h").unwrap();
        for (text, expected) in [
            ("#{id => 1, name => <<\"x\">>}.", term!(#{id => 1, name => "x"})),
            ("{ok, [a, 'B c' | []]}", term!({ok, [a, (Term::atom("B c").unwrap())]})),
            ("app@h", name),
            ("<<1, 2, \"é\"/utf8>>", Term::binary([1, 2, 0xc3, 0xa9])),
            ("<<\"é\">>", Term::binary([0xe9])),
            ("\"ab\" .", Term::charlist("ab")),
            ("[a|b]", Term::ImproperList(vec![term!(a)], Box::new(term!(b)))),
            ("-1_000", term!((-1000))),
            ("1.5e-3", Term::Float(Float::new(0.0015).unwrap())),
            ("#{}", term!(#{})),
        ] {
            assert_eq!(parse_erlang(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_term_is_refused_with_its_place() {
        for bad in [
            "",
            "X",
            "{a",
            "[a,]",
            "#{a => }",
            "<<256>>",
            "<<\"x\">",
            "a b",
            "'a",
            "99999999999999999999",
        ] {
            assert!(parse_erlang(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_erlang(&"[".repeat(10_000)), Err(TextError::TooDeep));
        assert_eq!(
            parse_erlang("{a b}"),
            Err(TextError::Expected { expected: "a comma or }", at: 3 })
        );
    }
}
