//! What the image's bytes are spent on.

use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Style};

use super::stage::Size;

/// A row a part, and the whole below.
pub fn table(parts: &[(String, Size)]) -> String {
    let mut builder = Builder::default();
    builder.push_record(["part", "in memory", "in the image"]);
    let mut whole = Size::default();
    for (name, size) in parts {
        whole += *size;
        builder.push_record([
            name.clone(),
            mebibytes(size.unpacked),
            mebibytes(size.packed),
        ]);
    }
    builder.push_record([
        "all".to_owned(),
        mebibytes(whole.unpacked),
        mebibytes(whole.packed),
    ]);
    let mut table = builder.build();
    table
        .with(Style::rounded())
        .modify(Columns::new(1..), Alignment::right());
    table.to_string()
}

/// Such as `12.3 MiB`.
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20))
}
