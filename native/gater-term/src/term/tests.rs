use proptest::prelude::*;

use super::*;
use crate::term;

fn shown(term: &Term) -> String {
    term.to_string()
}

#[test]
fn a_term_is_shown_as_in_the_shell() {
    let map = term!(#{b => 1, a => [2, 3]});
    for (term, text) in [
        (term!({ok, 1, (-5)}), "{ok,1,-5}"),
        (term!([]), "[]"),
        (Term::charlist("hi\n"), r#""hi\n""#),
        (term!("bin"), r#"<<"bin">>"#),
        (Term::binary([0, 255]), "<<0,255>>"),
        (map, "#{a => [2,3],b => 1}"),
        (Term::Float(Float::new(1.0).unwrap()), "1.0"),
        (Term::Float(Float::new(1e300).unwrap()), "1.0e300"),
        (term!((atom "two words")), "'two words'"),
        (term!((atom "case")), "'case'"),
        (term!((atom "it's")), r"'it\'s'"),
        (term!((atom "a@b")), "a@b"),
        (term!((u64::MAX)), "18446744073709551615"),
        (Term::ImproperList(vec![term!(1)], Box::new(term!(2))), "[1|2]"),
    ] {
        assert_eq!(shown(&term), text);
    }
}

#[test]
fn what_no_node_decodes_is_refused() {
    assert!(Term::atom(&"a".repeat(300)).is_err());
    assert!(Float::new(f64::NAN).is_none());
    assert!(matches!(Term::decode(&[]), Err(DecodeError::Scan(ScanError::Truncated))));
    assert!(matches!(Term::decode(&[106, 106]), Err(DecodeError::Trailing(1))));
    // A list of three elements that has one.
    assert!(Term::decode(&[108, 0, 0, 0, 3, 97, 1, 106]).is_err());
}

#[test]
fn depth_is_bounded_wherever_it_is_hidden() {
    // What is last in its container adds no depth for the scanner.
    let mut nested = [104, 2, 97, 1].repeat(100_000);
    nested.push(106);
    assert_eq!(Term::decode(&nested), Err(DecodeError::TooDeep));
    let mut nested = [104, 2].repeat(100_000);
    nested.extend([97, 1].repeat(100_001));
    assert!(Term::decode(&nested).is_err());
}

#[test]
fn a_list_that_continues_in_its_tail_is_one_list() {
    let list = [108, 0, 0, 0, 1, 97, 1, 107, 0, 2, 2, 3];
    assert_eq!(Term::decode(&list).unwrap(), term!([1, 2, 3]));
}

fn any_term() -> impl Strategy<Value = Term> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Term::from),
        any::<u64>().prop_map(Term::from),
        any::<f64>().prop_filter_map("finite", Float::new).prop_map(Term::Float),
        ".{0,40}".prop_map(|text| Term::atom(&text).unwrap()),
        any::<Vec<u8>>().prop_map(Term::binary),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Term::Tuple),
            prop::collection::vec(inner.clone(), 0..6).prop_map(Term::List),
            prop::collection::btree_map(inner.clone(), inner, 0..6).prop_map(Term::Map),
        ]
    })
}

#[test]
fn a_map_has_one_zero_among_its_keys() {
    let zero = |value| Term::Float(Float::new(value).unwrap());
    let inner = Term::Map([(zero(-0.0), term!(1)), (zero(0.0), term!(2))].into());
    let map = Term::Map([(inner, term!(3))].into());
    assert_eq!(Term::decode(&map.to_vec()), Ok(map));
}

proptest! {
    #[test]
    fn a_term_survives_being_encoded(term in any_term()) {
        prop_assert_eq!(Term::decode(&term.to_vec()).unwrap(), term);
    }

    #[test]
    fn any_bytes_are_a_term_or_refused(bytes in any::<Vec<u8>>()) {
        if let Ok(term) = Term::decode(&bytes) {
            prop_assert_eq!(Term::decode(&term.to_vec()).unwrap(), term.clone());
            let _ = term.to_string();
        }
    }
}
