use proptest::prelude::*;

use super::*;
use crate::image::testing::{Layer, entries};

fn pieces(pieces: &[(u64, u64)]) -> Vec<Piece> {
    let piece = |(offset, length): &(u64, u64)| piece([*offset, *length]);
    pieces.iter().map(piece).collect()
}

/// Name, length and bytes of the one entry, then of what follows it.
fn read(layer: Layer) -> Result<(String, u64, Vec<u8>), String> {
    let all = entries(&layer.file("after", b"next").tar()).map_err(|error| error.to_string())?;
    assert_eq!(all.len(), 2);
    assert_eq!(all[1].1, b"next");
    let (entry, data) = &all[0];
    let name = entry.path.components().join(&b'/');
    Ok((String::from_utf8(name).unwrap(), entry.size, data.clone()))
}

/// 3000 bytes: two pieces of data, and holes before, between and behind them.
fn holes() -> Vec<u8> {
    let mut file = vec![0; 3000];
    file[512..1024].fill(b'a');
    file[2000..2010].fill(b'b');
    file
}

fn data() -> Vec<u8> {
    [vec![b'a'; 512], vec![b'b'; 10]].concat()
}

/// GNU's old form. `more`: pieces in blocks behind the header.
fn old(size: u64, first: &[(u64, u64)], more: &[&[(u64, u64)]], data: &[u8]) -> Layer {
    let write = |block: &mut [u8], pieces: &[(u64, u64)]| {
        for (at, (offset, length)) in pieces.iter().enumerate() {
            let text = format!("{offset:011o}\0{length:011o}\0");
            block[at * 24..][..24].copy_from_slice(text.as_bytes());
        }
    };
    let mut blocks = Vec::new();
    for (at, pieces) in more.iter().enumerate() {
        let mut block = [0; BLOCK];
        write(&mut block, pieces);
        block[504] = u8::from(at + 1 < more.len());
        blocks.extend_from_slice(&block);
    }
    Layer::default()
        .header(|header| {
            let bytes = header.as_mut_bytes();
            bytes[..4].copy_from_slice(b"holy");
            bytes[156] = b'S';
            bytes[257..265].copy_from_slice(b"ustar  \0");
            write(&mut bytes[386..482], first);
            bytes[482] = u8::from(!more.is_empty());
            bytes[483..495].copy_from_slice(format!("{size:011o}\0").as_bytes());
            header.set_size(data.len() as u64);
        })
        .bytes(&blocks)
        .bytes(data)
}

fn one_zero(size: &str, map: &str, data: &[u8]) -> Layer {
    let mut body = map.as_bytes().to_vec();
    body.resize(body.len().next_multiple_of(BLOCK), 0);
    body.extend_from_slice(data);
    Layer::default()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"holy"),
            ("GNU.sparse.realsize", size.as_bytes()),
        ])
        .file("GNUSparseFile.1/holy", &body)
}

fn zero_one(records: &[(&str, &[u8])], data: &[u8]) -> Layer {
    Layer::default().pax(records).file("holy", data)
}

#[test]
fn every_form_gives_the_same_file() {
    let map = [(512, 512), (2000, 10)];
    let to_the_end = [(512, 512), (2000, 10), (3000, 0)];
    let forms = [
        old(3000, &map, &[], &data()),
        old(3000, &to_the_end, &[], &data()),
        old(3000, &map[..1], &[&map[1..]], &data()),
        old(3000, &[], &[&map[..1], &[], &map[1..]], &data()),
        zero_one(
            &[
                ("GNU.sparse.size", b"3000"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.offset", b"512"),
                ("GNU.sparse.numbytes", b"512"),
                ("GNU.sparse.offset", b"2000"),
                ("GNU.sparse.numbytes", b"10"),
            ],
            &data(),
        ),
        zero_one(
            &[
                ("GNU.sparse.major", b"0"),
                ("GNU.sparse.minor", b"1"),
                ("path", b"GNUSparseFile.1/holy"),
                ("GNU.sparse.name", b"holy"),
                ("GNU.sparse.size", b"3000"),
                ("GNU.sparse.numblocks", b"3"),
                ("GNU.sparse.map", b"512,512,2000,10,3000,0"),
            ],
            &data(),
        ),
        one_zero("3000", "2\n512\n512\n2000\n10\n", &data()),
        one_zero("3000", "3\n512\n512\n2000\n10\n3000\n0\n", &data()),
    ];
    for (at, form) in forms.into_iter().enumerate() {
        let expected = ("holy".to_owned(), 3000, holes());
        assert_eq!(read(form).unwrap(), expected, "form {at}");
    }
}

#[test]
fn a_name_that_is_left_empty_is_the_header_s() {
    let records: [(&str, &[u8]); 3] = [
        ("GNU.sparse.name", b""),
        ("GNU.sparse.size", b"4"),
        ("GNU.sparse.map", b"0,4"),
    ];
    let expected = ("holy".to_owned(), 4, b"data".to_vec());
    assert_eq!(read(zero_one(&records, b"data")).unwrap(), expected);
    // Behind one that is not.
    let both = Layer::default()
        .pax(&[("GNU.sparse.name", b"elsewhere")])
        .then(zero_one(&records, b"data"));
    assert_eq!(read(both).unwrap(), expected);
}

#[test]
fn a_file_may_be_one_hole() {
    for form in [
        old(3000, &[], &[], b""),
        old(3000, &[(3000, 0)], &[], b""),
        one_zero("3000", "0\n", b""),
        one_zero("3000", "1\n3000\n0\n", b""),
        zero_one(
            &[("GNU.sparse.size", b"3000"), ("GNU.sparse.map", b"")],
            b"",
        ),
        zero_one(
            &[("GNU.sparse.size", b"3000"), ("GNU.sparse.numblocks", b"0")],
            b"",
        ),
    ] {
        assert_eq!(
            read(form).unwrap(),
            ("holy".to_owned(), 3000, vec![0; 3000])
        );
    }
    let nothing = one_zero("0", "0\n", b"");
    assert_eq!(read(nothing).unwrap().2, b"");
}

/// A map of several blocks.
#[test]
fn a_map_may_be_long() {
    let count = 500u64;
    let lines: String = (0..count).map(|n| format!("{}\n1\n", n * 1000)).collect();
    let form = one_zero(
        &(count * 1000).to_string(),
        &format!("{count}\n{lines}"),
        &vec![b'x'; count as usize],
    );
    let (_, size, data) = read(form).unwrap();
    assert_eq!(size, count * 1000);
    assert!((0..size).all(|at| data[at as usize] == if at % 1000 == 0 { b'x' } else { 0 }));
}

#[test]
fn what_a_map_says_must_be_possible() {
    let most = u64::MAX;
    for (map, size, stored, why) in [
        (
            &[(0, 10), (5, 10)][..],
            100,
            20,
            "over others or out of order",
        ),
        (&[(50, 10), (0, 10)], 100, 20, "over others or out of order"),
        (&[(95, 10)], 100, 10, "behind the file's end"),
        (&[(most, 10)], most, 10, "behind the file's end"),
        (&[(101, 0)], 100, 0, "behind the file's end"),
        (&[(0, 10)], 100, 11, "more or less data"),
        (&[(0, 10)], 100, 9, "more or less data"),
        (&[], 100, 1, "more or less data"),
    ] {
        let error = Map::new(pieces(map), size, stored).unwrap_err();
        assert!(error.contains(why), "{map:?}: {error}");
    }
    Map::new(pieces(&[(0, 10), (10, 0), (10, 90)]), 100, 100).unwrap();
    Map::new(pieces(&[(0, most)]), most, most).unwrap();
}

#[test]
fn what_is_wrong_with_a_map_is_told_by_name() {
    let with = |records: &[(&str, &[u8])]| zero_one(records, b"data");
    for (form, why) in [
        (
            old(100, &[(98, 4)], &[], b"data"),
            "`holy`: its map has data behind",
        ),
        (
            old(100, &[(0, 3)], &[], b"data"),
            "`holy`: its map has more or less",
        ),
        (
            one_zero("100", "1\n0\n5\n", b"data"),
            "`holy`: its map has more or less",
        ),
        (one_zero("100", "1\n0\n", b""), "malformed"),
        (one_zero("100", "x\n", b""), "malformed"),
        (one_zero("100", "-1\n", b""), "malformed"),
        (one_zero("100", "\n", b""), "malformed"),
        (one_zero("100", &"1".repeat(30), b""), "malformed"),
        (one_zero("100", "18446744073709551616\n", b""), "malformed"),
        (one_zero("100", "262145\n", b""), "more than 262144 pieces"),
        (
            with(&[("GNU.sparse.map", b"0,4")]),
            "`holy`: it is a sparse file, and does not say",
        ),
        (
            with(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,4,5")]),
            "not as long as it says",
        ),
        (
            with(&[
                ("GNU.sparse.size", b"9"),
                ("GNU.sparse.map", b"0,4"),
                ("GNU.sparse.numblocks", b"2"),
            ]),
            "not as long as it says",
        ),
        (
            with(&[("GNU.sparse.size", b"9"), ("GNU.sparse.offset", b"0")]),
            "not as long as it says",
        ),
        (
            with(&[("GNU.sparse.offset", b"0"), ("GNU.sparse.offset", b"0")]),
            "`GNU.sparse.offset` cannot be read",
        ),
        (with(&[("GNU.sparse.numbytes", b"0")]), "cannot be read"),
        (with(&[("GNU.sparse.map", b"0,,4")]), "cannot be read"),
        (
            with(&[("GNU.sparse.major", b"2"), ("GNU.sparse.size", b"9")]),
            "a version that is not known",
        ),
        (
            with(&[("GNU.sparse.minor", b"2"), ("GNU.sparse.size", b"9")]),
            "a version that is not known",
        ),
    ] {
        let error = read(form).unwrap_err();
        assert!(error.contains(why), "{error}; expected {why}");
    }
}

/// Blocks of pieces without an end, each piece nothing.
#[test]
fn a_map_has_an_end() {
    let block: &[(u64, u64)] = &[(0, 0); 21];
    let blocks = vec![block; limits::PIECES / 21 + 1];
    let error = read(old(100, &[], &blocks, b"")).unwrap_err();
    assert!(error.contains("more than 262144 pieces"), "{error}");
    read(old(100, &[], &blocks[1..], b"")).unwrap();
    // One that says that it goes on, and does not.
    let cut = old(100, &[], &[block], b"").tar();
    assert!(entries(&cut[..700]).is_err());
    assert!(entries(&cut[..512]).is_err());
}

/// An archive of a kilobyte whose file is larger than any disk: nothing is made of it by reading what
/// it has.
#[test]
fn what_is_claimed_costs_nothing_until_it_is_read() {
    let huge = one_zero(&u64::MAX.to_string(), "0\n", b"").file("after", b"");
    let mut all = crate::image::tarball::Tarball::new(&*huge.tar().leak());
    assert_eq!(all.next_entry().unwrap().unwrap().size, u64::MAX);
    let mut some = [1; 1000];
    all.data().read_exact(&mut some).unwrap();
    assert_eq!(some, [0; 1000]);
    assert_eq!(all.next_entry().unwrap().unwrap().size, 0);
}

proptest! {
    /// Any map and any way to read it: the bytes are where the map says.
    #[test]
    fn what_is_read_is_the_file(
        parts in prop::collection::vec((0u64..600, 0u64..600), 0..12),
        tail in 0u64..600,
        chunk in 1usize..700,
    ) {
        let (mut file, mut stored, mut map) = (Vec::new(), Vec::new(), Vec::new());
        for (hole, length) in parts {
            file.resize(file.len() + hole as usize, 0);
            map.push((file.len() as u64, length));
            let data: Vec<u8> = (0..length).map(|n| n as u8 | 1).collect();
            file.extend_from_slice(&data);
            stored.extend_from_slice(&data);
        }
        file.resize(file.len() + tail as usize, 0);
        let map = Map::new(pieces(&map), file.len() as u64, stored.len() as u64).unwrap();
        let (mut expansion, mut data) = (map.expand(), stored.as_slice());
        let (mut read, mut buffer) = (Vec::new(), vec![7; chunk]);
        loop {
            let length = expansion.read(&mut data, &mut buffer).unwrap();
            if length == 0 {
                break;
            }
            read.extend_from_slice(&buffer[..length]);
        }
        prop_assert!(data.is_empty());
        prop_assert_eq!(read, file);
    }

    #[test]
    fn any_map_is_read_or_refused(tar in odd_holes()) {
        prop_assert!(is_read_or_refused(&tar));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    #[ignore = "slow: a hundred thousand maps"]
    fn any_of_very_many_maps_is_read_or_refused(tar in odd_holes()) {
        prop_assert!(is_read_or_refused(&tar));
    }
}

/// A file whose records, blocks and lines say something or other about holes.
fn odd_holes() -> impl Strategy<Value = Vec<u8>> {
    let names = [
        "major",
        "minor",
        "size",
        "realsize",
        "numblocks",
        "map",
        "offset",
        "numbytes",
        "name",
    ];
    let keys = prop::collection::vec((prop::sample::select(names.to_vec()), "[0-9,]{0,6}"), 0..8);
    let records = (keys, "[0-9\n]{0,40}").prop_map(|(keys, map)| {
        let keys: Vec<_> = keys
            .into_iter()
            .map(|(key, value)| (format!("GNU.sparse.{key}"), value))
            .collect();
        let keys: Vec<_> = keys
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_bytes()))
            .collect();
        Layer::default()
            .pax(&keys)
            .file("holy", map.as_bytes())
            .tar()
    });
    let piece = || (0u64..2000, 0u64..600);
    let first = prop::collection::vec(piece(), 0..5);
    let more = prop::collection::vec(prop::collection::vec(piece(), 0..22), 0..3);
    let old = (0u64..3000, first, more, 0usize..2000).prop_map(|(size, first, more, stored)| {
        let more: Vec<_> = more.iter().map(Vec::as_slice).collect();
        let first = &first[..first.len().min(4)];
        old(size, first, &more, &vec![b'x'; stored]).tar()
    });
    prop_oneof![records, old]
}

/// Whether it ends, and gives as many bytes as it said.
fn is_read_or_refused(tar: &[u8]) -> bool {
    entries(tar).map_or(true, |found| {
        found
            .iter()
            .all(|(entry, data)| entry.size == data.len() as u64)
    })
}

#[test]
fn each_record_of_holes_says_that_there_are_some() {
    let is_any = |key: &str, value: &str| {
        let mut records = Records::default();
        records.read(key.as_bytes(), value.as_bytes()).unwrap();
        records.is_any()
    };
    for (key, value) in [
        ("major", "1"),
        ("minor", "0"),
        ("size", "5"),
        ("realsize", "5"),
        ("map", ""),
        ("offset", "0"),
    ] {
        assert!(is_any(key, value), "{key}");
    }
    assert!(!is_any("name", "x") && !is_any("numblocks", "0"));
}

#[test]
fn a_map_before_the_data_has_as_many_pieces_as_may_be() {
    let map = |count: usize| {
        let mut text = format!("{count}\n{}", "0\n0\n".repeat(count)).into_bytes();
        text.resize(text.len().next_multiple_of(BLOCK), 0);
        read_map(&mut &text[..]).map(|pieces| pieces.len())
    };
    assert_eq!(map(limits::PIECES).unwrap(), limits::PIECES);
    let error = map(limits::PIECES + 1).unwrap_err().to_string();
    assert!(error.contains("more than"), "{error}");
}
