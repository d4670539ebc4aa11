//! The macro [`term!`](crate::term!).

/// Builds a [`Term`](crate::Term), written much as in Erlang.
///
/// A word is an atom, `{...}` a tuple, `[...]` a list and `#{key => value}` a map. A literal or an
/// expression in parentheses is converted by `Into<Term>` (a text becomes a binary). An atom that
/// is not a word is written `(atom "any text")`; a text of more than 255 bytes does not compile.
/// Lists of more than about a hundred elements are made with `Term::from(vec)`.
///
/// ```
/// use gater_term::term;
///
/// let id = 7;
/// let request = term!({lookup, (id), "name", [1, -2], #{limit => 10, #{} => #{a => 1}}});
/// let shown = r#"{lookup,7,<<"name">>,[1,-2],#{limit => 10,#{} => #{a => 1}}}"#;
/// assert_eq!(request.to_string(), shown);
/// assert_eq!(term!((atom "two words")).to_string(), "'two words'");
/// ```
#[macro_export]
macro_rules! term {
    (@list [$(($done:expr))*]) => { vec![$($done),*] };
    (@list [$($done:tt)*] # $map:tt $(, $($rest:tt)*)?) => {
        $crate::term!(@list [$($done)* ($crate::term!(# $map))] $($($rest)*)?)
    };
    (@list [$($done:tt)*] - $number:literal $(, $($rest:tt)*)?) => {
        $crate::term!(@list [$($done)* ($crate::term!(- $number))] $($($rest)*)?)
    };
    (@list [$($done:tt)*] $element:tt $(, $($rest:tt)*)?) => {
        $crate::term!(@list [$($done)* ($crate::term!($element))] $($($rest)*)?)
    };
    (@map [$(($key:expr, $value:expr))*]) => { [$(($key, $value)),*].into() };
    (@map [$($done:tt)*] # $map:tt => $($rest:tt)*) => {
        $crate::term!(@value [$($done)*] ($crate::term!(# $map)) $($rest)*)
    };
    (@map [$($done:tt)*] - $number:literal => $($rest:tt)*) => {
        $crate::term!(@value [$($done)*] ($crate::term!(- $number)) $($rest)*)
    };
    (@map [$($done:tt)*] $key:tt => $($rest:tt)*) => {
        $crate::term!(@value [$($done)*] ($crate::term!($key)) $($rest)*)
    };
    (@value [$($done:tt)*] ($key:expr) # $map:tt $(, $($rest:tt)*)?) => {
        $crate::term!(@map [$($done)* ($key, $crate::term!(# $map))] $($($rest)*)?)
    };
    (@value [$($done:tt)*] ($key:expr) - $number:literal $(, $($rest:tt)*)?) => {
        $crate::term!(@map [$($done)* ($key, $crate::term!(- $number))] $($($rest)*)?)
    };
    (@value [$($done:tt)*] ($key:expr) $value:tt $(, $($rest:tt)*)?) => {
        $crate::term!(@map [$($done)* ($key, $crate::term!($value))] $($($rest)*)?)
    };
    ((atom $text:expr)) => {{
        const TEXT: $crate::StaticAtom = $crate::StaticAtom::new($text);
        $crate::Term::Atom(TEXT.to_atom())
    }};
    (($value:expr)) => { $crate::Term::from($value) };
    ({ $($elements:tt)* }) => { $crate::Term::Tuple($crate::term!(@list [] $($elements)*)) };
    ([ $($elements:tt)* ]) => { $crate::Term::List($crate::term!(@list [] $($elements)*)) };
    (# { $($pairs:tt)* }) => { $crate::Term::Map($crate::term!(@map [] $($pairs)*)) };
    (- $number:literal) => { $crate::Term::from(-$number) };
    ($name:ident) => { $crate::term!((atom stringify!($name))) };
    ($value:literal) => { $crate::Term::from($value) };
}
