use super::*;

fn scan(input: &[u8]) -> Result<usize, ScanError> {
    Scanner::default().scan(input, 0)
}

fn map(keys: &[&[u8]]) -> Vec<u8> {
    let mut out = vec![116];
    out.extend((keys.len() as u32).to_be_bytes());
    for key in keys {
        out.extend_from_slice(key);
        out.push(106);
    }
    out
}

#[test]
fn a_term_ends_where_it_ends() {
    for term in [
        &b"\x61\x05"[..],
        b"\x62\xff\xff\xff\xff",
        b"\x6a",
        b"\x68\x02\x77\x02ok\x6d\0\0\0\x03abc",
        b"\x6c\0\0\0\x02\x61\x01\x61\x02\x6a",
        b"\x6b\0\x03abc",
        b"\x74\0\0\0\x01\x77\x01a\x61\x01",
        b"\x46\x3f\xf0\0\0\0\0\0\0",
        b"\x4d\0\0\0\x01\x03\xa0",
        b"\x6e\x01\x01\x05",
        b"\x71\x77\x01m\x77\x01f\x61\x02",
        b"\x58\x77\x03a@h\0\0\0\x01\0\0\0\x02\0\0\0\x03",
        b"\x68\0",
    ] {
        let mut longer = term.to_vec();
        longer.extend_from_slice(b"rest");
        assert_eq!(scan(term), Ok(term.len()), "{term:?}");
        assert_eq!(scan(&longer), Ok(term.len()), "{term:?}");
        for cut in 0..term.len() {
            assert!(scan(&term[..cut]).is_err(), "{term:?} cut at {cut}");
        }
    }
}

#[test]
fn what_a_beam_would_not_decode_is_refused() {
    for term in [
        &b"\x46\x7f\xf0\0\0\0\0\0\0"[..], // infinity
        b"\x77\x02\xff\xff",              // an atom that is not UTF-8
        b"\x4d\0\0\0\x01\x00\xa0",        // bits of the last byte
        b"\x4d\0\0\0\x01\x09\xa0",
        b"\x52\x00",                   // the atom cache was not agreed
        b"\x50\0\0\0\x01\x78",         // compressed
        b"\x79",                       // local
        b"\x83\x6a",                   // a version byte inside
        b"\x71\x77\x01m\x77\x01f\x6a", // the arity of a fun
        b"\x58\x61\x01\0\0\0\x01\0\0\0\x02\0\0\0\x03",
        b"\x6c\xff\xff\xff\xff\x6a",
        b"",
    ] {
        assert!(scan(term).is_err(), "{term:?}");
    }
}

#[test]
fn an_atom_has_at_most_255_characters() {
    let atom = |text: &str| {
        let mut out = vec![118];
        out.extend((text.len() as u16).to_be_bytes());
        out.extend(text.as_bytes());
        out
    };
    assert!(scan(&atom(&"é".repeat(255))).is_ok());
    assert_eq!(scan(&atom(&"é".repeat(256))), Err(ScanError::Malformed("atom")));
}

#[test]
fn nesting_in_last_place_adds_no_depth() {
    // [1 | [1 | ...]] and {1, {1, ...}}
    for head in [&b"\x6c\0\0\0\x01\x61\x01"[..], b"\x68\x02\x61\x01"] {
        let mut term = head.repeat(1_000_000);
        term.push(106);
        assert_eq!(scan(&term), Ok(term.len()));
    }
}

#[test]
fn ten_million_levels_are_refused_without_recursion() {
    // [[[...
    let term = b"\x6c\0\0\0\x01".repeat(10_000_000);
    assert_eq!(scan(&term), Err(ScanError::TooDeep(10_000)));
}

#[test]
fn the_limits_hold() {
    let list = b"\x6b\0\x03abc";
    let limits = Limits { max_bytes: 5, ..Limits::default() };
    assert_eq!(Scanner::new(limits).scan(list, 0), Err(ScanError::TooLong(5)));
    let limits = Limits { max_terms: 3, ..Limits::default() };
    assert_eq!(
        Scanner::new(limits).scan(b"\x68\x03\x6a\x6a\x6a", 0),
        Err(ScanError::TooManyTerms(3))
    );
    assert_eq!(Scanner::new(limits).scan(b"\x68\x02\x6a\x6a", 0), Ok(4));
}

#[test]
fn a_map_with_a_key_twice_is_refused_however_the_key_is_written() {
    let same: [&[&[u8]]; 7] = [
        &[b"\x61\x05", b"\x62\0\0\0\x05", b"\x6e\x01\0\x05", b"\x6e\x03\0\x05\0\0"],
        &[b"\x77\x01a", b"\x64\0\x01a", b"\x73\x01a", b"\x76\0\x01a"],
        &[
            b"\x6b\0\x02\x01\x02",
            b"\x6c\0\0\0\x02\x61\x01\x61\x02\x6a",
            b"\x6c\0\0\0\x01\x61\x01\x6b\0\x01\x02",
        ],
        &[b"\x74\0\0\0\x02\x61\x01\x6a\x61\x02\x6a", b"\x74\0\0\0\x02\x61\x02\x6a\x61\x01\x6a"],
        &[b"\x6d\0\0\0\x01\xa0", b"\x4d\0\0\0\x01\x08\xa0"],
        &[b"\x4d\0\0\0\x01\x03\xa0", b"\x4d\0\0\0\x01\x03\xbf"],
        &[b"\x68\x01\x77\x02\xc3\xa9", b"\x69\0\0\0\x01\x73\x01\xe9"],
    ];
    for keys in same {
        for a in keys {
            for b in keys {
                let outcome = scan(&map(&[a, b"\x77\x05other", b]));
                assert_eq!(outcome, Err(ScanError::DuplicateKey), "{a:?} {b:?}");
            }
        }
    }
}

#[test]
fn different_keys_are_accepted() {
    let keys: [&[u8]; 16] = [
        b"\x61\x05",
        b"\x62\xff\xff\xff\xfb",
        b"\x46\x40\x14\0\0\0\0\0\0",
        b"\x77\x01a",
        b"\x6d\0\0\0\x01a",
        b"\x4d\0\0\0\x01\x07a",
        b"\x6b\0\x01a",
        b"\x6a",
        b"\x68\0",
        b"\x68\x01\x6a",
        b"\x68\x01\x68\0",
        b"\x6c\0\0\0\x01\x6a\x6a",
        b"\x6c\0\0\0\x01\x61\x01\x61\x02",
        b"\x74\0\0\0\0",
        b"\x74\0\0\0\x01\x61\x01\x61\x02",
        b"\x74\0\0\0\x01\x61\x02\x61\x01",
    ];
    let term = map(&keys);
    assert_eq!(scan(&term), Ok(term.len()));
}

#[test]
fn keys_of_inner_maps_are_their_own() {
    let inner = map(&[b"\x77\x01a", b"\x77\x01b"]);
    let term = map(&[&inner, b"\x77\x01a", &map(&[b"\x77\x01a"])]);
    assert_eq!(scan(&term), Ok(term.len()));
    let broken = map(&[b"\x77\x01a", &map(&[b"\x61\x01", b"\x61\x01"])]);
    assert_eq!(scan(&broken), Err(ScanError::DuplicateKey));
}

/// A fun of module `m`.
fn fun(arity: u8, md5: u8, index: u32, old_unique: u8, creator: u32, free: u32) -> Vec<u8> {
    let mut body = vec![arity];
    body.extend([md5; 16]);
    body.extend(index.to_be_bytes());
    body.extend(free.to_be_bytes());
    body.extend(b"\x77\x01m\x61");
    body.extend([index as u8, 97, old_unique]);
    body.extend(b"\x58\x77\x03a@h");
    body.extend(creator.to_be_bytes());
    body.extend(b"\0\0\0\0\0\0\0\x01");
    body.extend(b"\x61\x01".repeat(free as usize));
    let mut out = vec![112];
    out.extend((body.len() as u32 + 4).to_be_bytes());
    out.extend(body);
    out
}

fn reference(words: &[u32]) -> Vec<u8> {
    let mut out = vec![90];
    out.extend((words.len() as u16).to_be_bytes());
    out.extend(b"\x77\x03a@h\0\0\0\x01");
    out.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    out
}

#[test]
fn a_fun_holds_at_most_255_terms() {
    let most = fun(0, 0, 0, 0, 1, 255);
    assert_eq!(scan(&most), Ok(most.len()));
    assert_eq!(scan(&fun(0, 0, 0, 0, 1, 256)), Err(ScanError::Malformed("fun")));
}

#[test]
fn funs_and_references_are_the_same_keys_as_in_a_beam() {
    let same = [
        [fun(0, 0, 0, 0, 1, 1), fun(0, 0, 0, 0, 2, 1)], // another creator
        [fun(0, 0, 0, 0, 1, 1), fun(1, 0, 0, 0, 1, 1)], // another arity
        [fun(0, 0, 0, 0, 1, 1), fun(0, 1, 0, 0, 1, 1)], // another version of the module
        [reference(&[1, 2, 3]), reference(&[1, 2, 3, 0, 0])],
        [reference(&[1]), reference(&[1, 0])],
    ];
    for [a, b] in same {
        assert_eq!(scan(&map(&[&a, &b])), Err(ScanError::DuplicateKey), "{a:?} {b:?}");
    }
    let different = [
        [fun(0, 0, 0, 0, 1, 1), fun(0, 0, 1, 0, 1, 1)],
        [fun(0, 0, 0, 0, 1, 1), fun(0, 0, 0, 1, 1, 1)],
        [fun(0, 0, 0, 0, 1, 1), fun(0, 0, 0, 0, 1, 2)],
        [reference(&[1, 2, 3]), reference(&[1, 2, 3, 0, 1])],
        [reference(&[0, 1]), reference(&[1])],
    ];
    for [a, b] in different {
        assert!(scan(&map(&[&a, &b])).is_ok(), "{a:?} {b:?}");
    }
}

/// `#{Key => [], [] => []}`, where `Key` is such a map again.
fn keys_in_keys(depth: usize, innermost: usize) -> Vec<u8> {
    let mut term = b"\x74\0\0\0\x02".repeat(depth);
    term.push(109);
    term.extend((innermost as u32).to_be_bytes());
    term.resize(term.len() + innermost, 0);
    term.extend(b"\x6a\x61\x01\x6a".repeat(depth));
    term
}

#[test]
fn keys_in_keys_are_not_hashed_without_end() {
    let some = keys_in_keys(8, 1 << 20);
    assert_eq!(scan(&some), Ok(some.len()));
    let small = keys_in_keys(100, 1000);
    assert_eq!(scan(&small), Ok(small.len()));
    assert_eq!(scan(&keys_in_keys(9000, 1 << 20)), Err(ScanError::KeysTooComplex));
}

#[test]
fn the_room_for_a_large_map_is_given_back() {
    let keys: Vec<_> =
        (0_u32..100_000).map(|key| [&[98_u8][..], &key.to_be_bytes()].concat()).collect();
    let keys: Vec<_> = keys.iter().map(Vec::as_slice).collect();
    let term = map(&keys);
    let mut scanner = Scanner::default();
    assert_eq!(scanner.scan(&term, 0), Ok(term.len()));
    assert_eq!(scanner.keys.room(), 0);
}
