use std::collections::BTreeMap;
use std::fmt::Debug;

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::*;
use crate::term;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Point,
    Circle(u32),
    Box(i64, f64),
    Named { name: String, tags: Vec<String> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Everything {
    flag: bool,
    small: i8,
    large: u64,
    huge: i128,
    float: f64,
    letter: char,
    none: Option<u8>,
    some: Option<u8>,
    unit: (),
    pair: (u8, String),
    scores: BTreeMap<String, i64>,
    shapes: Vec<Shape>,
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let term = to_term(value).unwrap();
    // Also through bytes, as it travels.
    let sent = Term::decode(&term.to_vec()).unwrap();
    assert_eq!(&from_term::<T>(&sent).unwrap(), value, "{term}");
}

#[test]
fn values_become_the_terms_of_the_table() {
    assert_eq!(to_term(&true), Ok(term!(true)));
    assert_eq!(to_term("text"), Ok(term!("text")));
    assert_eq!(to_term(&None::<u8>), Ok(term!(undefined)));
    assert_eq!(to_term(&Some(3)), Ok(term!(3)));
    assert_eq!(to_term(&vec![1, 2]), Ok(term!([1, 2])));
    assert_eq!(to_term(&(1, "a")), Ok(term!({1, "a"})));
    assert_eq!(to_term(&Shape::Point), Ok(term!(point)));
    assert_eq!(to_term(&Shape::Circle(2)), Ok(term!({circle, 2})));
    let half = crate::Float::new(0.5).unwrap();
    assert_eq!(
        to_term(&Shape::Box(-1, 0.5)),
        Ok(Term::Tuple(vec![term!(box), term!((-1)), Term::Float(half)]))
    );
    let named = Shape::Named { name: "n".into(), tags: vec![] };
    assert_eq!(to_term(&named), Ok(term!({named, #{name => "n", tags => []}})));
}

#[test]
fn terms_of_other_writers_are_read_as_well() {
    assert_eq!(from_term(&term!(nil)), Ok(None::<u8>));
    assert_eq!(from_term(&term!(an_atom)), Ok("an_atom".to_owned()));
    assert_eq!(from_term(&term!(undefined)), Ok("undefined".to_owned()));
    assert_eq!(from_term(&term!(2)), Ok(2.0));
    assert_eq!(from_term(&term!("ab")), Ok(vec![b'a', b'b']));
    let binary_keys = term!({named, #{"name" => "n", "tags" => [], "more" => 1}});
    let named = Shape::Named { name: "n".into(), tags: vec![] };
    assert_eq!(from_term(&binary_keys), Ok(named));
}

#[test]
fn integers_of_every_size_are_the_same_afterwards() {
    for value in [0, 1, -1, i128::from(i64::MAX), i128::from(i64::MIN), i128::MAX, i128::MIN] {
        round_trip(&value);
        for near in [value.saturating_add(1), value.saturating_sub(1)] {
            round_trip(&near);
        }
    }
    round_trip(&u64::MAX);
    round_trip(&u128::MAX);
    assert!(from_term::<u8>(&term!(256)).is_err());
    assert!(from_term::<u64>(&term!((-1))).is_err());
}

#[test]
fn what_does_not_fit_is_refused_with_a_reason() {
    assert_eq!(to_term(&f64::NAN), Err(ConvertError::NotFinite("NaN".into())));
    let cases: [(Term, &str); 5] = [
        (term!({circle, 1, 2}), "expected a variant with one field, found circle"),
        (term!({point, 1}), "expected a variant without fields, found point"),
        (term!({box, 1}), "invalid length 1, expected tuple variant Shape::Box with 2 elements"),
        (
            term!(triangle),
            "unknown variant `triangle`, expected one of `point`, `circle`, `box`, `named`",
        ),
        (term!({}), "expected a variant, found {}"),
    ];
    for (term, message) in cases {
        assert_eq!(from_term::<Shape>(&term).unwrap_err().to_string(), message);
    }
    let long = Term::binary([255; 1000]);
    let message = from_term::<String>(&long).unwrap_err().to_string();
    assert!(message.starts_with("expected a binary in UTF-8, found <<"), "{message}");
    assert!(message.ends_with("...") && message.len() < 200, "{message}");
    assert!(from_term::<(u8, u8)>(&term!({1, 2, 3})).is_err());
}

#[test]
fn terms_nested_deeply_are_read_without_overflow() {
    #[derive(Debug, Deserialize)]
    struct Nested(#[allow(dead_code)] Vec<Nested>);
    let deep = (0..crate::MAX_DECODED_DEPTH).fold(term!([]), |inner, _| Term::List(vec![inner]));
    assert!(from_term::<Nested>(&deep).is_ok());
}

fn any_shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Point),
        any::<u32>().prop_map(Shape::Circle),
        (any::<i64>(), -1e9..1e9).prop_map(|(a, b)| Shape::Box(a, b)),
        (".*", proptest::collection::vec(".*", 0..3))
            .prop_map(|(name, tags)| Shape::Named { name, tags }),
    ]
}

proptest! {
    #[test]
    fn every_value_is_the_same_afterwards(
        numbers in (any::<bool>(), any::<i8>(), any::<u64>(), any::<i128>(), -1e300..1e300, any::<char>()),
        some in any::<Option<u8>>(),
        pair in (any::<u8>(), ".*"),
        scores in proptest::collection::btree_map(".*", any::<i64>(), 0..4),
        shapes in proptest::collection::vec(any_shape(), 0..4),
    ) {
        let (flag, small, large, huge, float, letter) = numbers;
        round_trip(&Everything {
            flag, small, large, huge, float, letter, none: None, some, unit: (), pair, scores, shapes,
        });
    }
}
