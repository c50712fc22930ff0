//! Points of a series from rows, of whatever step and however many: counts add up, gauges are averages weighted by time.

use super::span::Span;
use std::collections::BTreeMap;
use zectre_common::{
    histogram::Histogram,
    time::Time,
    wire::metrics::{AppPoint, Latency, NodePoint},
};

/// What one proxy counted of one environment within one step.
#[derive(Debug, Clone)]
pub(crate) struct RequestRow {
    pub(crate) at: Time,
    /// Of what has no series of its own: says that somebody told of the step.
    pub(crate) is_others: bool,
    pub(crate) requests: i64,
    pub(crate) errors: i64,
    pub(crate) durations: Vec<i64>,
}

/// What was in use within one step.
#[derive(Debug, Clone)]
pub(crate) struct UsageRow {
    pub(crate) at: Time,
    /// Says that somebody looked.
    pub(crate) is_mark: bool,
    pub(crate) step_secs: i32,
    pub(crate) cpu_millis: Option<f64>,
    pub(crate) memory_bytes: Option<f64>,
    pub(crate) tasks: f64,
}

#[derive(Debug, Clone, Default)]
struct Requests {
    is_told: bool,
    has_own: bool,
    others: i64,
    count: i64,
    errors: i64,
    durations: Histogram,
}

#[derive(Debug, Clone, Default)]
struct Usage {
    /// Seconds that were looked at.
    looked_secs: f64,
    cpu: Gauge,
    memory: Gauge,
    tasks: Gauge,
}

#[derive(Debug, Clone, Default)]
struct Gauge {
    sum: f64,
    /// Seconds in which there were tasks of which nobody knows.
    unknown_secs: f64,
}

impl Gauge {
    fn add(&mut self, value: Option<f64>, secs: f64) {
        match value {
            Some(value) => self.sum += value * secs,
            None => self.unknown_secs += secs,
        }
    }
}

impl Usage {
    /// The average over what was looked at and known. A subject without a row had no tasks; one whose agents did not tell is unknown.
    fn average(&self, gauge: &Gauge) -> Option<f64> {
        let known_secs = self.looked_secs - gauge.unknown_secs;
        (known_secs > 0.0).then(|| gauge.sum / known_secs)
    }
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn requests(span: Span, rows: &[RequestRow]) -> Vec<Requests> {
    let mut steps = vec![Requests::default(); span.count() as usize];
    for row in rows {
        let Some(step) = span.place(row.at).and_then(|place| steps.get_mut(place)) else {
            continue;
        };
        step.is_told = true;
        if row.is_others {
            step.others += row.requests;
            continue;
        }
        step.has_own = true;
        step.count += row.requests;
        step.errors += row.errors;
        step.durations
            .add(&Histogram::of(row.durations.iter().map(|count| unsigned(*count))));
    }
    steps
}

impl Requests {
    /// Without a row of its own, an environment had no requests; or they are among those of the others.
    fn is_known(&self) -> bool {
        self.has_own || (self.is_told && self.others == 0)
    }

    fn latency(&self) -> Option<Latency> {
        // In whole microseconds: what lies beyond says nothing.
        let quantile = |share| Some((self.durations.quantile_ms(share)? * 1_000.0).round() / 1_000.0);
        Some(Latency {
            p50: quantile(0.5)?,
            p90: quantile(0.9)?,
            p99: quantile(0.99)?,
        })
    }
}

fn usage(span: Span, rows: &[UsageRow]) -> Vec<Usage> {
    let mut steps = vec![Usage::default(); span.count() as usize];
    // The environments of an application are looked at together: the sum of what one of them doesn't tell is unknown.
    let mut looks: BTreeMap<(Time, i32), [Option<f64>; 3]> = BTreeMap::new();
    for row in rows {
        if row.is_mark {
            if let Some(step) = span.place(row.at).and_then(|place| steps.get_mut(place)) {
                step.looked_secs += f64::from(row.step_secs);
            }
            continue;
        }
        let look = looks.entry((row.at, row.step_secs)).or_insert([Some(0.0); 3]);
        for (sum, value) in look
            .iter_mut()
            .zip([Some(row.tasks), row.cpu_millis, row.memory_bytes])
        {
            *sum = sum.zip(value).map(|(sum, value)| sum + value);
        }
    }
    for ((at, step_secs), [tasks, cpu, memory]) in looks {
        if let Some(step) = span.place(at).and_then(|place| steps.get_mut(place)) {
            let secs = f64::from(step_secs);
            step.tasks.add(tasks, secs);
            step.cpu.add(cpu, secs);
            step.memory.add(memory, secs);
        }
    }
    steps
}

fn at(span: Span, place: usize) -> Time {
    Time::from_unix_ms(span.from_ms + span.step_ms() * place as i64)
}

/// The points of an application. `wakes` is by step; none is known before `wakes_since`.
pub(crate) fn of_app(
    span: Span,
    (request_rows, usage_rows): (&[RequestRow], &[UsageRow]),
    wakes: &BTreeMap<Time, i64>,
    (wakes_since, now): (Time, Time),
) -> Vec<AppPoint> {
    let usage = usage(span, usage_rows);
    let requests = requests(span, request_rows);
    let point = |(place, (requests, usage)): (usize, (Requests, Usage))| {
        let at = at(span, place);
        let is_known = requests.is_known();
        AppPoint {
            at,
            requests: is_known.then(|| unsigned(requests.count)),
            errors: is_known.then(|| unsigned(requests.errors)),
            latency_ms: requests.latency(),
            cpu_millis: usage.average(&usage.cpu),
            memory_bytes: usage.average(&usage.memory),
            replicas: usage.average(&usage.tasks),
            wakes: (wakes_since <= at && at <= now).then(|| unsigned(wakes.get(&at).copied().unwrap_or(0))),
        }
    };
    requests.into_iter().zip(usage).enumerate().map(point).collect()
}

/// The points of a node. `wakes` is by when a step of any length begins; none is known before `wakes_since`.
pub(crate) fn of_node(
    span: Span,
    (request_rows, usage_rows): (&[RequestRow], &[UsageRow]),
    wakes: &BTreeMap<Time, i64>,
    (wakes_since, now): (Time, Time),
) -> Vec<NodePoint> {
    let usage = usage(span, usage_rows);
    let requests = requests(span, request_rows);
    let step_ms = span.step_ms();
    let point = |(place, (requests, usage)): (usize, (Requests, Usage))| {
        let at = at(span, place);
        let end = Time::from_unix_ms(at.unix_ms() + step_ms);
        let is_known = requests.is_known();
        NodePoint {
            at,
            requests: is_known.then(|| unsigned(requests.count)),
            errors: is_known.then(|| unsigned(requests.errors)),
            latency_ms: requests.latency(),
            cpu_millis: usage.average(&usage.cpu),
            memory_bytes: usage.average(&usage.memory),
            replicas: usage.average(&usage.tasks),
            // The step in which counting began is told from there on.
            wakes: (wakes_since < end && at <= now)
                .then(|| unsigned(wakes.range(at..end).map(|(_, count)| count).sum())),
        }
    };
    requests.into_iter().zip(usage).enumerate().map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span {
        from_ms: 0,
        to_ms: 240_000,
        step_secs: 60,
    };

    fn secs(secs: i64) -> Time {
        Time::from_unix_ms(secs * 1_000)
    }

    #[test]
    fn what_nobody_told_is_null_and_what_was_told_to_be_nothing_is_zero() {
        let row = |at, is_others, requests| RequestRow {
            at: secs(at),
            is_others,
            requests,
            errors: requests / 2,
            durations: vec![requests],
        };
        // Two proxies in the first minute, silence in the second, nothing for us in the third, too many routes in the fourth.
        let rows = [
            row(0, true, 0),
            row(10, false, 4),
            row(10, false, 2),
            row(120, true, 0),
            row(180, true, 9),
        ];
        let points = of_app(
            SPAN,
            (&rows, &[]),
            &BTreeMap::from([(secs(60), 3)]),
            (secs(60), secs(130)),
        );
        let requests: Vec<_> = points
            .iter()
            .map(|point| (point.requests, point.errors))
            .collect();
        assert_eq!(
            requests,
            [(Some(6), Some(3)), (None, None), (Some(0), Some(0)), (None, None)]
        );
        assert_eq!(points[0].latency_ms.map(|latency| latency.p99), Some(0.128));
        assert_eq!(points[2].latency_ms, None);
        let wakes: Vec<_> = points.iter().map(|point| point.wakes).collect();
        assert_eq!(wakes, [None, Some(3), Some(0), None]);
        assert_eq!(points[0].replicas, None);
    }

    #[test]
    fn gauges_are_averages_over_what_was_looked_at() {
        let row = |at, is_mark, step_secs, cpu: Option<f64>, tasks| UsageRow {
            at: secs(at),
            is_mark,
            step_secs,
            cpu_millis: cpu,
            memory_bytes: cpu,
            tasks,
        };
        let rows = [
            // Half of what was looked at it had two tasks; in the second minute nobody knows what they used; none in the third.
            row(0, true, 10, None, 0.0),
            row(10, true, 10, None, 0.0),
            row(10, false, 10, Some(100.0), 2.0),
            row(60, true, 60, None, 0.0),
            row(60, false, 60, None, 1.0),
            row(120, true, 60, None, 0.0),
            // In the fourth, of three looks one at which nobody knew, and one without tasks.
            row(180, true, 10, None, 0.0),
            row(190, true, 10, None, 0.0),
            row(200, true, 10, None, 0.0),
            row(180, false, 10, Some(80.0), 2.0),
            row(190, false, 10, None, 1.0),
        ];
        // Of two environments that were looked at together one was not told of.
        let looked = |at| row(at, true, 60, None, 0.0);
        let both = [
            looked(0),
            looked(60),
            row(0, false, 60, Some(100.0), 1.0),
            row(0, false, 60, Some(20.0), 1.0),
            row(60, false, 60, Some(100.0), 1.0),
            row(60, false, 60, None, 1.0),
        ];
        let points = of_node(SPAN, (&[], &both), &BTreeMap::new(), (secs(0), secs(0)));
        assert_eq!(
            (points[0].cpu_millis, points[0].replicas),
            (Some(120.0), Some(2.0))
        );
        assert_eq!((points[1].cpu_millis, points[1].replicas), (None, Some(2.0)));
        let points = of_node(
            SPAN,
            (&[], &rows),
            // Two steps of 10 s of the second minute; they are counted since the middle of it, and the third has only begun.
            &BTreeMap::from([(secs(60), 2), (secs(110), 1), (secs(180), 9)]),
            (secs(90), secs(150)),
        );
        let wakes: Vec<_> = points.iter().map(|point| point.wakes).collect();
        assert_eq!(wakes, [None, Some(3), Some(0), None]);
        let told: Vec<_> = points
            .iter()
            .map(|point| (point.cpu_millis, point.replicas))
            .collect();
        assert_eq!(
            told,
            [
                (Some(50.0), Some(1.0)),
                (None, Some(1.0)),
                (Some(0.0), Some(0.0)),
                (Some(40.0), Some(1.0))
            ]
        );
    }
}
