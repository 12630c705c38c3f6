//! Holds `requirements.md` to the sources: what it calls tested has a test of that name, and no test names an id it
//! does not list.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// One row of the list.
#[derive(Debug)]
struct Row<'a> {
    section: &'a str,
    id: &'a str,
    state: &'a str,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn list_path() -> PathBuf {
    root().join("tests/conformance/requirements.md")
}

fn rows(list: &str) -> Vec<Row<'_>> {
    let mut section = "";
    let mut rows = Vec::new();
    for line in list.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title;
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let ["", id, state, _, ""] = cells[..]
            && id.contains(|c: char| c.is_ascii_digit())
        {
            rows.push(Row { section, id, state });
        }
    }
    rows
}

/// `SUB-02` as it stands in a test's name.
fn in_a_name(id: &str) -> String {
    id.to_lowercase().replace('-', "_")
}

/// The names of all test functions under a folder.
fn tests_under(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a source folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            tests_under(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).expect("a source file");
            names.extend(tests_in(&source));
        }
    }
}

/// Functions that follow an attribute such as `#[test]`, `#[tokio::test]` or `#[tokio::test(…)]`.
fn tests_in(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[") {
            marked |= line.contains("test]") || line.contains("test(");
        } else if let Some((_, rest)) = line.split_once("fn ") {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            if let (true, Some(end)) = (marked, end) {
                names.push(rest[..end].to_owned());
            }
            marked = false;
        }
    }
    names
}

/// The ids a test's name begins with: `sub_02_sub_03_one_…` has two.
fn leading_ids(name: &str) -> Vec<String> {
    let name = joined(name);
    let parts: Vec<&str> = name.split('_').collect();
    parts
        .chunks_exact(2)
        .map_while(|pair| {
            let number = pair[1].len() == 2 && pair[1].bytes().all(|b| b.is_ascii_digit());
            let prefix = pair[0].bytes().all(|b| b.is_ascii_lowercase());
            (number && prefix).then(|| pair.join("_"))
        })
        .collect()
}

/// `META-SES-01` is not `SES-01`: its prefix in one piece.
fn joined(name: &str) -> String {
    ["ses", "sub", "reg"]
        .iter()
        .fold(name.to_owned(), |name, part| {
            name.replace(&format!("meta_{part}_"), &format!("meta{part}_"))
        })
}

fn all_tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for folder in ["src", "tests"] {
        tests_under(&root().join(folder), &mut names);
    }
    names
}

fn has_test(tests: &BTreeSet<String>, id: &str) -> bool {
    let id = joined(&format!("_{}_", in_a_name(id)));
    tests
        .iter()
        .any(|name| joined(&format!("_{name}_")).contains(&id))
}

/// The list with `tested` and `untested` set by what is there.
fn updated(list: &str, tests: &BTreeSet<String>) -> String {
    let mut text = list.to_owned();
    for row in rows(list) {
        let found = if has_test(tests, row.id) {
            "tested"
        } else {
            "untested"
        };
        if matches!(row.state, "tested" | "untested") {
            let (old, new) = (row.state, found);
            text = text.replace(
                &format!("| {} | {old} |", row.id),
                &format!("| {} | {new} |", row.id),
            );
        }
    }
    text
}

#[test]
fn the_list_says_what_the_tests_say() {
    let mut list = fs::read_to_string(list_path()).expect("requirements.md");
    let tests = all_tests();
    if std::env::var_os("UPDATE_REQUIREMENTS").is_some() {
        list = updated(&list, &tests);
        fs::write(list_path(), &list).expect("requirements.md can be written");
    }
    let mut problems = Vec::new();
    let mut known = BTreeSet::new();
    for row in rows(&list) {
        if !known.insert(joined(&format!("{}_", in_a_name(row.id)))) {
            problems.push(format!("{} stands there twice", row.id));
        }
        match (row.state, has_test(&tests, row.id)) {
            ("tested", true) | ("untested", false) => {}
            ("tested", false) => problems.push(format!("{} has no test of that name", row.id)),
            ("untested", true) => {
                problems.push(format!("{} is called untested, but has a test", row.id))
            }
            (state, _) if state.starts_with("not offered (") => {}
            (state, _) => problems.push(format!("{}: what is {state:?}?", row.id)),
        }
    }
    for name in &tests {
        for id in leading_ids(name) {
            if !known.contains(&format!("{id}_")) {
                problems.push(format!("{name} names {id}, which the list does not have"));
            }
        }
    }
    assert!(
        problems.is_empty(),
        "{}\nUPDATE_REQUIREMENTS=1 cargo test --test conformance requirements",
        problems.join("\n")
    );
}

/// For people and CI: `cargo test --test conformance requirements -- --nocapture`.
#[test]
fn summary() {
    let list = fs::read_to_string(list_path()).expect("requirements.md");
    let mut sections: BTreeMap<u32, (&str, [usize; 4])> = BTreeMap::new();
    for row in rows(&list) {
        let number = row
            .section
            .split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or_default();
        let (_, counts) = sections.entry(number).or_insert((row.section, [0; 4]));
        counts[0] += 1;
        counts[match row.state {
            "tested" => 1,
            "untested" => 2,
            _ => 3,
        }] += 1;
    }
    let mut total = [0; 4];
    eprintln!(
        "{:<40} {:>5} {:>7} {:>9} {:>12}",
        "section", "rows", "tested", "untested", "not offered"
    );
    for (section, counts) in sections.values() {
        eprintln!(
            "{section:<40} {:>5} {:>7} {:>9} {:>12}",
            counts[0], counts[1], counts[2], counts[3]
        );
        for (sum, count) in total.iter_mut().zip(counts) {
            *sum += count;
        }
    }
    eprintln!(
        "{:<40} {:>5} {:>7} {:>9} {:>12}",
        "all", total[0], total[1], total[2], total[3]
    );
    assert_eq!(total[0], total[1] + total[2] + total[3]);
}

#[test]
fn names_are_read_as_meant() {
    let source = "#[test]\nfn sub_02_sub_03_one() {}\nfn helper_12_x() {}\n#[tokio::test]\nasync fn a() {}\n";
    assert_eq!(tests_in(source), ["sub_02_sub_03_one", "a"]);
    assert_eq!(
        leading_ids("sub_02_sub_03_one_of_2_pow_53"),
        ["sub_02", "sub_03"]
    );
    assert_eq!(
        leading_ids("meta_01_meta_ses_02_x"),
        ["meta_01", "metases_02"]
    );
    assert_eq!(leading_ids("wraps_to_1"), Vec::<String>::new());
}
