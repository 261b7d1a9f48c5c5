//! The governor's state as metrics.

use super::{Governor, Policy, Usage};
use crate::telemetry::self_metrics::{
    BUDGET_USED, CPU_SHARE, MAP_MEMORY, PAUSED, RESIDENT_MEMORY, Registry, SHED, SHED_LEVEL,
};

impl Governor {
    /// Says what was used and what is shed now. What is unknown is not said.
    pub fn publish(&self, usage: &Usage, registry: &Registry) {
        let Usage {
            user_cpu_share,
            bpf_cpu_share,
            web_cpu_share,
            rss_bytes,
            map_bytes,
            // The resource monitor says these.
            load_per_core: _,
            memory_pressure: _,
            memory_available: _,
        } = *usage;
        let Policy { cpu_share_max, memory_bytes_max, .. } = self.policy;
        let unknown = f64::NAN;
        let bytes = |bytes: Option<u64>| bytes.map_or(unknown, |bytes| bytes as f64);
        registry.gauge(&CPU_SHARE, &["user"]).set(user_cpu_share.unwrap_or(unknown));
        registry.gauge(&CPU_SHARE, &["bpf"]).set(bpf_cpu_share.unwrap_or(unknown));
        registry.gauge(&CPU_SHARE, &["web"]).set(web_cpu_share.unwrap_or(unknown));
        registry.gauge(&RESIDENT_MEMORY, &[]).set(bytes(rss_bytes));
        registry.gauge(&MAP_MEMORY, &[]).set(bytes(map_bytes));
        registry.gauge(&BUDGET_USED, &["cpu"]).set(usage.cpu_share().map_or(unknown, |share| share / cpu_share_max));
        let memory = bytes(usage.memory_bytes()) / memory_bytes_max as f64;
        registry.gauge(&BUDGET_USED, &["memory"]).set(memory);
        let shed = self.shed();
        for step in self.steps() {
            registry.gauge(&SHED, &[step.shed.name()]).set_bool(shed.contains(&step.shed));
        }
        registry.gauge(&SHED_LEVEL, &[]).set(shed.len() as f64);
        registry.gauge(&PAUSED, &[]).set_bool(self.paused().is_some());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::record::Record;

    #[test]
    fn what_is_shed_and_used_is_published() {
        let mut governor = Governor::new(Policy::default(), &[]);
        let usage = Usage {
            user_cpu_share: Some(0.01),
            bpf_cpu_share: Some(0.005),
            web_cpu_share: Some(0.25),
            rss_bytes: Some(30_000_000),
            map_bytes: None,
            ..Usage::default()
        };
        for _ in 0..3 {
            governor.tick(&usage);
        }
        let registry = Registry::default();
        governor.publish(&usage, &registry);
        let published: BTreeMap<String, f64> = registry
            .snapshot()
            .into_iter()
            .map(|record| match record {
                Record::Gauge(gauge) => {
                    let labels: Vec<&str> = gauge.labels.iter().map(|(_, value)| &**value).collect();
                    (format!("{} {}", gauge.name, labels.join(" ")), gauge.value)
                }
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [
            ("obs_agent_budget_used cpu", 1.5),
            ("obs_agent_budget_used memory", 0.3),
            ("obs_agent_cpu_share bpf", 0.005),
            ("obs_agent_cpu_share user", 0.01),
            ("obs_agent_cpu_share web", 0.25),
            ("obs_agent_paused ", 0.0),
            ("obs_agent_resident_memory ", 30_000_000.0),
            ("obs_agent_shed half-frequency", 1.0),
            ("obs_agent_shed low-frequency", 0.0),
            ("obs_agent_shed process-resources", 0.0),
            ("obs_agent_shed sampling", 0.0),
            ("obs_agent_shed snapshots", 0.0),
            ("obs_agent_shed symbol-details", 0.0),
            ("obs_agent_shed_level ", 1.0),
        ];
        assert_eq!(published.keys().map(String::as_str).collect::<Vec<_>>(), expected.map(|(name, _)| name));
        for (name, value) in expected {
            assert!((published[name] - value).abs() < 1e-9, "{name}: {}", published[name]);
        }
    }
}
