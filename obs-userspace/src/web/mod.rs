//! The page, the API, the metrics and the probes, over HTTP.
//!
//! [`Server::start`] runs it all on threads of its own. What it shows it asks of [`Sources`], which whoever wires the agent hands
//! in; profiles are written in foreign formats by functions handed in likewise. `docs/http.md` describes it for its users,
//! `docs/openapi.yaml` the API.
//!
//! **Invariant:** whatever a client does or leaves undone, what it can hold has a bound in size and in time: `server/watch.rs`
//! has the times, `work.rs` the sizes.
//!
//! **Boundary:** this module knows `model` and the read side of `store` only.

mod answer;
mod api;
mod audit;
mod body;
mod credentials;
mod flame;
mod guard;
mod health;
mod metrics;
mod options;
mod page;
mod probes;
mod query;
mod refusal;
mod routes;
mod server;
mod stats;
mod status;
#[cfg(test)]
mod tests;
mod time;
mod tls;
mod tokens;
mod work;

pub use self::{
    audit::{Audit, AuditEntry, AuditFile, Outcome},
    credentials::{CredentialChange, Reread},
    health::{ComponentHealth, Health, HealthBoard, Need},
    metrics::{MetricInfo, prometheus_name},
    options::{Ask, EncodeFn, Encoder, LogLevelControl, SetLogLevelFn, Sources, TlsFiles, WebLimits, WebOptions},
    server::{Server, WebError},
    stats::METRICS,
    status::{AgentCost, AgentStatus, CollectorStatus, Loss, ShedStep},
    tls::TlsError,
    tokens::{Role, TokenError},
};
