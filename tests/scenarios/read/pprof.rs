//! pprof's `profile.proto`, gzipped: as much of it as the scenarios look at, and every reference checked.

use std::{collections::BTreeMap, io::Read};

use anyhow::{Context as _, Result, ensure};
use flate2::read::GzDecoder;

use super::protobuf::{Value, fields, numbers};

/// One sample, its references resolved.
#[derive(Clone, Debug, Default)]
pub(crate) struct PprofSample {
    /// Function names, leaf first, inlined ones expanded.
    pub(crate) functions: Vec<String>,
    /// One value per sample type.
    pub(crate) values: Vec<u64>,
    /// Labels with text values.
    pub(crate) labels: BTreeMap<String, String>,
    /// Labels with number values.
    pub(crate) number_labels: BTreeMap<String, u64>,
}

/// A profile.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pprof {
    /// `name/unit` of each value.
    pub(crate) sample_types: Vec<String>,
    /// `name/unit` of the period.
    pub(crate) period_type: String,
    /// The period.
    pub(crate) period: u64,
    /// How long it was recorded.
    pub(crate) duration_ns: u64,
    /// The samples.
    pub(crate) samples: Vec<PprofSample>,
    /// Each mapping's file and build id.
    pub(crate) mappings: Vec<(String, String)>,
}

type Message<'a> = Vec<(u64, Value<'a>)>;

impl Pprof {
    /// Reads it, strictly: every id must resolve.
    pub(crate) fn parse(gzipped: &[u8]) -> Result<Self> {
        let mut bytes = Vec::new();
        GzDecoder::new(gzipped).read_to_end(&mut bytes).context("unzipping the profile")?;
        let profile = fields(&bytes)?;
        let texts =
            messages(&profile, 6).map(|text| Ok(String::from_utf8(text.to_vec())?)).collect::<Result<Vec<_>>>()?;
        ensure!(texts.first().is_some_and(String::is_empty), "the first string of a profile must be empty");
        let text = |index: u64| -> Result<String> {
            texts.get(usize::try_from(index)?).cloned().with_context(|| format!("there is no string {index}"))
        };
        let value_type = |message: &[u8]| -> Result<String> {
            let message = fields(message)?;
            Ok(format!("{}/{}", text(number(&message, 1))?, text(number(&message, 2))?))
        };

        let mut functions = BTreeMap::new();
        for function in messages(&profile, 5) {
            let function = fields(function)?;
            functions.insert(number(&function, 1), text(number(&function, 2))?);
        }
        let mut mapping_ids = BTreeMap::new();
        let mut mappings = Vec::new();
        for mapping in messages(&profile, 3) {
            let mapping = fields(mapping)?;
            mapping_ids.insert(number(&mapping, 1), mappings.len());
            mappings.push((text(number(&mapping, 5))?, text(number(&mapping, 6))?));
        }
        let mut locations: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for location in messages(&profile, 4) {
            let location = fields(location)?;
            let mapping = number(&location, 2);
            ensure!(mapping == 0 || mapping_ids.contains_key(&mapping), "there is no mapping {mapping}");
            let mut names = Vec::new();
            for line in messages(&location, 4) {
                let function = number(&fields(line)?, 1);
                names.push(functions.get(&function).cloned().with_context(|| format!("no function {function}"))?);
            }
            locations.insert(number(&location, 1), names);
        }
        let mut samples = Vec::new();
        for sample in messages(&profile, 2) {
            samples.push(parse_sample(&fields(sample)?, &locations, &text)?);
        }
        let sample_types = messages(&profile, 1).map(value_type).collect::<Result<Vec<_>>>()?;
        ensure!(
            samples.iter().all(|sample| sample.values.len() == sample_types.len()),
            "a sample whose values are not as many as the sample types"
        );
        Ok(Self {
            sample_types,
            period_type: messages(&profile, 11).next().map(value_type).transpose()?.unwrap_or_default(),
            period: number(&profile, 12),
            duration_ns: number(&profile, 10),
            samples,
            mappings,
        })
    }

    /// The sum of the values of a type (`samples/count`).
    pub(crate) fn total(&self, sample_type: &str) -> Result<u64> {
        let index = self.sample_types.iter().position(|name| name == sample_type);
        let index = index.with_context(|| format!("no {sample_type} among {:?}", self.sample_types))?;
        Ok(self.samples.iter().map(|sample| sample.values[index]).sum())
    }
}

fn parse_sample(
    message: &Message<'_>,
    locations: &BTreeMap<u64, Vec<String>>,
    text: &dyn Fn(u64) -> Result<String>,
) -> Result<PprofSample> {
    let mut sample = PprofSample::default();
    for (field, value) in message {
        match (field, value) {
            (1, _) => {
                for id in numbers(*value)? {
                    let names = locations.get(&id).with_context(|| format!("there is no location {id}"))?;
                    sample.functions.extend(names.iter().cloned());
                }
            }
            (2, _) => sample.values.extend(numbers(*value)?),
            (3, Value::Bytes(label)) => {
                let label = fields(label)?;
                let key = text(number(&label, 1))?;
                match number(&label, 2) {
                    0 => sample.number_labels.insert(key, number(&label, 3)).map(drop),
                    index => sample.labels.insert(key, text(index)?).map(drop),
                };
            }
            _ => {}
        }
    }
    Ok(sample)
}

/// The messages (or strings) of a repeated field.
fn messages<'a>(message: &'a Message<'a>, field: u64) -> impl Iterator<Item = &'a [u8]> {
    message.iter().filter_map(move |(number, value)| match value {
        Value::Bytes(bytes) if *number == field => Some(*bytes),
        Value::Bytes(_) | Value::Varint(_) | Value::Fixed => None,
    })
}

/// A number field; 0 if it is absent, as the format has it.
fn number(message: &Message<'_>, field: u64) -> u64 {
    message
        .iter()
        .rev()
        .find_map(|(number, value)| match value {
            Value::Varint(value) if *number == field => Some(*value),
            Value::Varint(_) | Value::Bytes(_) | Value::Fixed => None,
        })
        .unwrap_or(0)
}
