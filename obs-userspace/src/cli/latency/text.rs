//! Latencies for people: a histogram with bars for each key, and its quantiles.

use std::io::{self, Write};

use super::{TAIL_EVENTS_MIN, title};
use crate::{
    collect::latency::{LatencyKind, LatencyLosses},
    model::{
        quantile::{BUCKET_ERROR, upper_bound},
        record::{Histogram, Record},
    },
    pipeline::latency::Measured,
};

/// Most rows of one histogram; buckets are drawn together until they fit.
const ROWS_MAX: i32 = 20;
/// Columns of the longest bar.
const BAR_COLUMNS: usize = 40;
/// Parts of a column that a bar can end at.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
/// Most keys that an interval shows; the rest are named by their number.
const KEYS_MAX: usize = 16;

/// Writes what was measured in a time.
pub(super) fn write(kind: &LatencyKind, measured: &Measured, out: &mut dyn Write) -> io::Result<()> {
    let Measured { is_total, end_unix_seconds: _, length, records, losses, kernel_cpu } = measured;
    let when = if *is_total { "in all" } else { "in the last" };
    writeln!(out, "{}: {}; {when} {}", kind.name, kind.summary, seconds(length.as_secs_f64()))?;
    let mut shown: Vec<_> = records.iter().map(|record| (weight(record), record)).collect();
    // What took longest together comes first.
    shown.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    if shown.is_empty() {
        writeln!(out, "  nothing was measured")?;
    }
    for (_, record) in shown.iter().take(KEYS_MAX) {
        match record {
            Record::Histogram(histogram) => write_histogram(histogram, out)?,
            Record::Counter(counter) => writeln!(out, "  {:>12}  {}", counter.value, title(&counter.labels))?,
            Record::StackSample(_) | Record::Gauge(_) | Record::Event(_) => {}
        }
    }
    if shown.len() > KEYS_MAX {
        writeln!(out, "\n  and {} more keys with less (all of them: --format json)", shown.len() - KEYS_MAX)?;
    }
    write_losses(losses, out)?;
    if *is_total {
        let cost = kernel_cpu.map_or("unknown".to_owned(), |cpu| seconds(cpu.as_secs_f64()));
        writeln!(out, "  CPU time of the BPF programs: {cost}")?;
        if kind.has_duration() {
            writeln!(out, "  quantiles are within ±{:.1} % of the true ones (buckets of 9 %)", BUCKET_ERROR * 100.0)?;
        }
    }
    writeln!(out)?;
    // Who watches it live waits for it.
    out.flush()
}

/// What keys are sorted by: the sum of durations, or the count.
fn weight(record: &Record) -> f64 {
    match record {
        Record::Histogram(histogram) => histogram.sum,
        Record::Counter(counter) => counter.value,
        Record::StackSample(_) | Record::Gauge(_) | Record::Event(_) => 0.0,
    }
}

fn write_losses(losses: &LatencyLosses, out: &mut dyn Write) -> io::Result<()> {
    let LatencyLosses { not_followed, not_seen, not_counted, other, over, children } = losses;
    for (count, what) in [
        (not_followed, "events are missing: too many were under way at once"),
        (not_seen, "beginnings or ends were not seen: the kernel ran no program for them"),
        (not_counted, "events are missing: there was no room for their keys"),
        (other, "events are under ~other: there was no room for their keys"),
        (over, "events were longer than the last bucket, in which they are"),
        (children, "children were not followed: the filter was full"),
    ] {
        if *count > 0 {
            writeln!(out, "  since the start, {count} {what}")?;
        }
    }
    Ok(())
}

fn write_histogram(histogram: &Histogram, out: &mut dyn Write) -> io::Result<()> {
    let count = histogram.count();
    let quantile = |share: f64| histogram.quantile(share).map_or("-".to_owned(), seconds);
    let tail =
        if count < TAIL_EVENTS_MIN { format!("- (of fewer than {TAIL_EVENTS_MIN} events)") } else { quantile(0.999) };
    writeln!(out, "\n  {}", if histogram.labels.is_empty() { "all".to_owned() } else { title(&histogram.labels) })?;
    writeln!(
        out,
        "  count {count}  mean {}  p50 {}  p90 {}  p99 {}  p99.9 {tail}",
        histogram.mean().map_or("-".to_owned(), seconds),
        quantile(0.5),
        quantile(0.9),
        quantile(0.99),
    )?;
    let rows = rows(histogram);
    let most = rows.iter().map(|row| row.count).max().unwrap_or(0);
    let mut is_gap = false;
    for Row { from, to, count } in rows {
        if count == 0 {
            // However many empty rows, one stands for them.
            if !is_gap {
                writeln!(out, "  {:>23}", "…")?;
            }
            is_gap = true;
            continue;
        }
        is_gap = false;
        let range = format!("{} – {}", seconds(from), seconds(to));
        writeln!(out, "  {range:>23} {count:>9} {}", bar(count, most))?;
    }
    Ok(())
}

/// Some buckets together, and the values in them, in seconds.
struct Row {
    from: f64,
    to: f64,
    count: u64,
}

/// The buckets, drawn together so that there are not too many rows. Rows begin where larger rows would, so that intervals can be
/// compared.
fn rows(histogram: &Histogram) -> Vec<Row> {
    let mut rows = Vec::new();
    if histogram.zero_count > 0 {
        rows.push(Row { from: 0.0, to: 0.0, count: histogram.zero_count });
    }
    let first = histogram.first_bucket;
    let Some(last) = i32::try_from(histogram.buckets.len()).ok().filter(|n| *n > 0).map(|n| first + n - 1) else {
        return rows;
    };
    // Bucket 1 is the first above one second: rows end where powers of two do.
    let row_of = |bucket: i32, width: i32| (bucket - 1).div_euclid(width);
    let mut width = 1;
    while row_of(last, width) - row_of(first, width) >= ROWS_MAX {
        width *= 2;
    }
    for row in row_of(first, width)..=row_of(last, width) {
        let begin = row * width + 1;
        let inside = (first..).zip(&histogram.buckets).filter(|(bucket, _)| row_of(*bucket, width) == row);
        let count = inside.map(|(_, count)| count).sum();
        rows.push(Row { from: upper_bound(begin - 1), to: upper_bound(begin - 1 + width), count });
    }
    rows
}

/// A bar, as long as the count's share of the largest.
fn bar(count: u64, most: u64) -> String {
    let eighths = (count as f64 / most as f64 * (BAR_COLUMNS * 8) as f64).round() as usize;
    let eighths = eighths.max(1);
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// A duration of so many seconds in the unit that suits it, with three digits.
fn seconds(seconds: f64) -> String {
    if seconds == 0.0 {
        return "0".to_owned();
    }
    let (value, unit) = [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")]
        .into_iter()
        .find(|(size, _)| seconds >= size * 0.999_5)
        .map_or((seconds / 1e-9, "ns"), |(size, unit)| (seconds / size, unit));
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{collect::latency::find_kind, model::record::Counter};

    fn histogram(first_bucket: i32, buckets: Vec<u64>) -> Histogram {
        let sum = buckets.iter().sum::<u64>() as f64 * upper_bound(first_bucket);
        Histogram { name: "h", labels: vec![("state", "woken".into())], first_bucket, buckets, zero_count: 0, sum }
    }

    fn written(what: &str, records: Vec<Record>, losses: LatencyLosses, is_total: bool) -> String {
        let length = Duration::from_secs(1);
        let kernel_cpu = Some(Duration::from_millis(3));
        let measured = Measured { is_total, end_unix_seconds: 0.0, length, records, losses, kernel_cpu };
        let mut out = Vec::new();
        write(find_kind(what).unwrap(), &measured, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn durations_have_three_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (1e-9, "1.00 ns"),
            (1.234e-5, "12.3 µs"),
            (0.000_999_9, "1.00 ms"),
            (0.1, "100 ms"),
            (9.999, "10.0 s"),
            (1_024.0, "1024 s"),
        ] {
            assert_eq!(seconds(value), expected);
        }
    }

    #[test]
    fn a_histogram_has_bars_and_gaps() {
        let mut buckets = vec![0; 17];
        (buckets[0], buckets[8], buckets[16]) = (4, 1, 2);
        let text =
            written("runqueue", vec![Record::Histogram(histogram(-79, buckets))], LatencyLosses::default(), false);
        assert!(text.contains("state=woken\n  count 7  mean "), "{text}");
        assert!(text.contains("p99.9 - (of fewer than 1000 events)"), "{text}");
        assert!(text.contains(&format!("4 {}\n", "█".repeat(40))), "{text}");
        assert!(text.contains(&format!("1 {}\n", "█".repeat(10))), "{text}");
        assert_eq!(text.matches('…').count(), 2, "{text}");
    }

    #[test]
    fn wide_histograms_are_drawn_together() {
        let wide = histogram(-200, vec![3; 200]);
        let all = rows(&wide);
        assert!(all.len() as i32 <= ROWS_MAX && all.len() > 10);
        assert_eq!(all.iter().map(|row| row.count).sum::<u64>(), 600);
        assert!(all.windows(2).all(|pair| pair[0].to == pair[1].from));
        // Rows of whole powers of two end at them.
        assert!(all.iter().all(|row| row.to.log2().fract() == 0.0), "{:?}", all.last().map(|row| row.to));
    }

    #[test]
    fn what_is_missing_is_told() {
        let losses = LatencyLosses { not_followed: 1, other: 2, ..LatencyLosses::default() };
        let text = written("runqueue", Vec::new(), losses, true);
        assert!(text.contains("nothing was measured") && text.contains("1 events are missing"), "{text}");
        assert!(text.contains("2 events are under ~other") && text.contains("±4.4 %"), "{text}");
        assert!(text.contains("CPU time of the BPF programs: 3.00 ms"), "{text}");
    }

    #[test]
    fn counts_are_numbers() {
        let counter = Counter { name: "c", labels: vec![("kind", "minor".into())], value: 400_000.0 };
        let text = written("pagefault", vec![Record::Counter(counter)], LatencyLosses::default(), true);
        assert!(text.contains("400000  kind=minor") && !text.contains("quantiles"), "{text}");
    }
}
