//! What tasks use, for Prometheus: cpu and memory of each task that runs here, by its application and environment.

use super::usage::Reading;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use std::{sync::atomic::AtomicU64, time::Duration};
use zectre_common::{id::TaskId, routing};
use zectre_service::{
    metrics::Registry,
    named::{Named, OTHER},
};

/// Whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    app: String,
    environment: String,
    task: String,
}

/// The numbers of all tasks.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    cpu_seconds: Family<Labels, Counter<f64, AtomicU64>>,
    memory_bytes: Family<Labels, Gauge>,
    named: Named<TaskId>,
}

impl Series {
    /// None yet.
    pub(crate) fn new(metrics: &Registry) -> Self {
        Self {
            cpu_seconds: metrics.register(
                "agent_task_cpu_seconds",
                "Processor time that a task used, since this agent knows it",
                Family::default(),
            ),
            memory_bytes: metrics.register(
                "agent_task_memory_bytes",
                "Memory that a task would be killed for",
                Family::default(),
            ),
            named: Named::default(),
        }
    }

    /// Those of a task; they go with the value.
    pub(super) fn of(&self, task: TaskId, (application, namespace): (&str, &str), environment: &str) -> Own {
        let named = self.named.has(&task);
        let or_other = |name: String| if named { name } else { OTHER.to_owned() };
        Own {
            labels: Labels {
                app: or_other(routing::subdomain(application, namespace)),
                environment: or_other(environment.to_owned()),
                task: or_other(task.to_string()),
            },
            series: self.clone(),
            named: named.then_some(task),
            cpu: None,
            memory_bytes: 0,
        }
    }
}

/// Those of one task, or its part of those of the others.
#[derive(Debug)]
pub(super) struct Own {
    series: Series,
    labels: Labels,
    /// Which one, where it has numbers of its own.
    named: Option<TaskId>,
    /// At the last look.
    cpu: Option<Duration>,
    memory_bytes: i64,
}

impl Own {
    /// Takes up a reading. What the task used before the first one counts only where it `began_here`.
    pub(super) fn read(&mut self, reading: Reading, began_here: bool) {
        let before = self
            .cpu
            .unwrap_or(if began_here { Duration::ZERO } else { reading.cpu });
        let used = reading.cpu.saturating_sub(before);
        let cpu_seconds = self.series.cpu_seconds.get_or_create(&self.labels);
        cpu_seconds.inc_by(used.as_secs_f64());
        drop(cpu_seconds);
        self.cpu = Some(reading.cpu);
        self.hold(i64::try_from(reading.memory_bytes).unwrap_or(i64::MAX));
    }

    fn hold(&mut self, memory_bytes: i64) {
        let gauge = self.series.memory_bytes.get_or_create(&self.labels);
        gauge.inc_by(memory_bytes - self.memory_bytes);
        self.memory_bytes = memory_bytes;
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(task) = &self.named {
            self.series.cpu_seconds.remove(&self.labels);
            self.series.memory_bytes.remove(&self.labels);
            self.series.named.give_back(task);
        } else if self.cpu.is_some() {
            self.hold(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zectre_service::named::NAMED_MAX;

    #[test]
    fn a_task_has_numbers_while_it_runs_and_those_beyond_the_bound_are_summed_up() {
        let metrics = Registry::new();
        let series = Series::new(&metrics);
        let of = || series.of(TaskId::new(), ("shop", "default"), "production");
        let reading = |secs, memory_bytes| Reading {
            cpu: Duration::from_secs(secs),
            memory_bytes,
        };
        let (mut here, mut adopted) = (of(), of());
        here.read(reading(2, 10), true);
        adopted.read(reading(2, 20), false);
        adopted.read(reading(3, 30), false);
        let value = |name: &str, task: &str| {
            let text = metrics.render();
            let labels = format!("task=\"{task}\"");
            let line = text
                .lines()
                .find(|line| line.starts_with(name) && line.contains(&labels))
                .map(ToOwned::to_owned);
            line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        };
        let (cpu, memory) = (
            "zectre_agent_task_cpu_seconds_total",
            "zectre_agent_task_memory_bytes",
        );
        assert_eq!(value(cpu, &here.labels.task), Some(2.0));
        assert_eq!(value(cpu, &adopted.labels.task), Some(1.0));
        assert_eq!(value(memory, &adopted.labels.task), Some(30.0));
        assert!(
            metrics
                .render()
                .contains("app=\"shop-default\",environment=\"production\"")
        );

        let crowd: Vec<Own> = (2..NAMED_MAX).map(|_| of()).collect();
        let (mut one, mut two) = (of(), of());
        one.read(reading(1, 5), true);
        two.read(reading(1, 6), true);
        assert_eq!((value(cpu, OTHER), value(memory, OTHER)), (Some(2.0), Some(11.0)));
        drop(two);
        assert_eq!((value(cpu, OTHER), value(memory, OTHER)), (Some(2.0), Some(5.0)));
        let task = here.labels.task.clone();
        drop((here, crowd));
        assert_eq!(value(cpu, &task), None);
        assert!(of().named.is_some(), "a place is free again");
    }
}
