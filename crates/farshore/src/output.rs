//! What is printed: stdout is data, stderr is talk.

pub(crate) mod cell;
pub(crate) mod time;

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};

use comfy_table::{ColumnConstraint, ContentArrangement, Table, Width};
use serde_json::Value;

use crate::exit::Exit;
use crate::failure::{Failure, Result};
use crate::kind::Kind;
use crate::output::cell::Look;

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    #[default]
    Table,
    /// More columns
    Wide,
    /// The API's own JSON
    Json,
    /// The same as YAML, ready for `farshore apply -f`
    Yaml,
    /// `kind/name`, one a line
    Name,
    /// One JSON object a line
    Ndjson,
}

#[derive(Clone, Copy, Debug, Default, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct OutputArguments {
    /// How data is printed
    #[arg(
        short,
        long = "output",
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        env = "FARSHORE_OUTPUT",
        hide_env = true
    )]
    pub(crate) output: Format,
    /// Tables without the line of titles
    #[arg(long, global = true)]
    pub(crate) no_headers: bool,
    /// Show the requests on stderr, without secrets
    #[arg(long, global = true)]
    pub(crate) debug: bool,
}

/// Where output goes and how.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    headers: bool,
    look: Look,
    stderr_terminal: bool,
    /// How wide the columns of the last table of a kind were: rows that follow while watching stand below them.
    widths: Mutex<BTreeMap<&'static str, Vec<u16>>>,
}

impl Output {
    pub(crate) fn new(arguments: OutputArguments) -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        let terminal = std::io::stdout().is_terminal();
        let stderr_terminal = std::io::stderr().is_terminal();
        Self {
            format: arguments.output,
            headers: !arguments.no_headers,
            look: Look { marks: terminal, colour: terminal && !plain },
            stderr_terminal: stderr_terminal && !plain,
            widths: Mutex::default(),
        }
    }

    pub(crate) const fn look(&self) -> Look {
        self.look
    }

    pub(crate) const fn is_terminal(&self) -> bool {
        self.look.marks
    }

    /// How wide the terminal is, where there is one that says so.
    fn width(&self) -> Option<u16> {
        if !self.is_terminal() {
            return None;
        }
        // A terminal that does not know its size says 0.
        rustix::termios::tcgetwinsize(std::io::stdout())
            .ok()
            .map(|size| size.ws_col)
            .filter(|width| *width >= 20)
    }

    /// Whether errors may be coloured.
    pub(crate) const fn colours_errors(&self) -> bool {
        self.stderr_terminal
    }

    /// Whether a person reads along: tables, not data for programs.
    pub(crate) const fn is_for_people(&self) -> bool {
        matches!(self.format, Format::Table | Format::Wide)
    }

    /// Prints a list in the API's shape, or as a table.
    pub(crate) fn list(&self, kind: &Kind, list: &Value) -> Result<()> {
        let items = kind.items(list);
        match self.format {
            Format::Table | Format::Wide => {
                if items.is_empty() {
                    eprintln!("No {} found.", kind.plural);
                    return Ok(());
                }
                print(&self.table(kind, items, self.headers))
            }
            Format::Json => print(&format!("{}\n", pretty(list)?)),
            Format::Yaml => print(&yaml(list)?),
            Format::Name => print(&names(kind, items)),
            Format::Ndjson => print(&lines(items)),
        }
    }

    /// Prints one object.
    pub(crate) fn object(&self, kind: &Kind, object: &Value) -> Result<()> {
        match self.format {
            Format::Table | Format::Wide => {
                print(&self.table(kind, std::slice::from_ref(object), self.headers))
            }
            Format::Json => print(&format!("{}\n", pretty(object)?)),
            Format::Yaml => print(&yaml(object)?),
            Format::Name => print(&names(kind, std::slice::from_ref(object))),
            Format::Ndjson => print(&lines(std::slice::from_ref(object))),
        }
    }

    /// Prints an object that changed while watching: documents of a stream, rows without titles.
    pub(crate) fn changed(&self, kind: &Kind, object: &Value) -> Result<()> {
        match self.format {
            Format::Table | Format::Wide => print(&self.table(kind, std::slice::from_ref(object), false)),
            Format::Yaml => print(&format!("---\n{}", yaml(object)?)),
            _ => self.object(kind, object),
        }
    }

    /// Rows and columns, as wide as the terminal, or as wide as they are where nobody looks.
    fn table(&self, kind: &Kind, items: &[Value], headers: bool) -> String {
        let wide = self.format == Format::Wide;
        let now = crate::clock::now();
        let columns: Vec<_> = kind.columns.iter().filter(|column| wide || !column.wide).collect();
        let titles = headers.then(|| columns.iter().map(|column| column.title.to_owned()).collect());
        let rows = items
            .iter()
            .map(|item| columns.iter().map(|column| (column.cell)(item, now).render(self.look)).collect());
        let mut widths = self.widths.lock().unwrap_or_else(PoisonError::into_inner);
        let widths = widths.entry(kind.kind).or_default();
        if headers {
            widths.clear();
        }
        self.build(titles, rows, widths)
    }

    /// A table of ready texts.
    pub(crate) fn rows(
        &self,
        titles: Option<Vec<String>>,
        rows: impl IntoIterator<Item = Vec<String>>,
    ) -> String {
        self.build(titles, rows, &mut Vec::new())
    }

    /// The columns are at least as wide as `widths`, which become what they are now.
    fn build(
        &self,
        titles: Option<Vec<String>>,
        rows: impl IntoIterator<Item = Vec<String>>,
        widths: &mut Vec<u16>,
    ) -> String {
        let mut table = Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        match self.width() {
            Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
            None => table.set_content_arrangement(ContentArrangement::Disabled),
        };
        if let Some(titles) = titles {
            table.set_header(titles);
        }
        for row in rows {
            table.add_row(row);
        }
        let last = table.column_count().saturating_sub(1);
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, if index == last { 0 } else { 3 }));
            if let Some(width) = widths.get(index).filter(|_| index != last) {
                column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(*width)));
            }
        }
        *widths = table
            .column_max_content_widths()
            .into_iter()
            .map(|width| width + 3)
            .zip(widths.iter().copied().chain(std::iter::repeat(0)))
            .map(|(new, old)| new.max(old))
            .collect();
        let mut text = String::new();
        for line in table.lines() {
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Writes to stdout. A reader that went away (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::new(Exit::Ok, "")),
        Err(error) => Err(Failure::because("can't write the output", &error)),
    }
}

pub(crate) fn pretty(value: &Value) -> Result<String> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::because("can't write JSON", &error))
}

pub(crate) fn yaml(value: &Value) -> Result<String> {
    serde_norway::to_string(value).map_err(|error| Failure::because("can't write YAML", &error))
}

fn names(kind: &Kind, items: &[Value]) -> String {
    items.iter().map(|item| format!("{}/{}\n", kind.singular, kind.name_of(item))).collect()
}

fn lines(items: &[Value]) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}
