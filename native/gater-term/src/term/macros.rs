//! The macro [`term!`](crate::term!).

/// Builds a [`Term`](crate::Term), written much as in Erlang.
///
/// A word is an atom (`ok`, or `'any text'` as `atom "any text"`), `{...}` a tuple, `[...]` a list,
/// `#{key => value}` a map, and everything else is a Rust expression in parentheses or a literal
/// that `Term` can be made from: numbers, and texts, which become binaries.
///
/// Elements are single tokens or groups: a negative number or a path goes in parentheses.
///
/// ```
/// use gater_term::term;
///
/// let id = 7;
/// let request = term!({lookup, (id), "name", [1, 2], #{limit => 10}});
/// assert_eq!(request.to_string(), r#"{lookup,7,<<"name">>,[1,2],#{limit => 10}}"#);
/// assert_eq!(term!((-1)).to_string(), "-1");
/// assert_eq!(term!((atom "two words")).to_string(), "'two words'");
/// ```
///
/// An atom of more than 255 bytes does not compile.
#[macro_export]
macro_rules! term {
    ((atom $text:expr)) => {{
        const TEXT: $crate::StaticAtom = $crate::StaticAtom::new($text);
        $crate::Term::Atom(TEXT.to_atom())
    }};
    (($value:expr)) => { $crate::Term::from($value) };
    ({ $($element:tt),* $(,)? }) => { $crate::Term::Tuple(vec![$($crate::term!($element)),*]) };
    ([ $($element:tt),* $(,)? ]) => { $crate::Term::List(vec![$($crate::term!($element)),*]) };
    (#{ $($key:tt => $value:tt),* $(,)? }) => {
        $crate::Term::Map([$(($crate::term!($key), $crate::term!($value))),*].into())
    };
    ($name:ident) => { $crate::term!((atom stringify!($name))) };
    ($value:literal) => { $crate::Term::from($value) };
}
