//! The threads: one reads processes, one asks runtimes.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    CGROUP_REFRESH, CGROUPS_MAX, CONTAINER_REFRESH, CONTAINERS_MAX, Container, FIRST_RETRY, QUEUE_MAX, Question,
    RETRY_DOUBLINGS_MAX, Shared, State,
    container::{self, KnownByState},
    read,
    users::Users,
};
use crate::model::{
    container::Runtime,
    process::{ContainerIdentity, Identity},
};

/// Starts the thread that reads processes, under a number: when another one has taken its place, it ends.
pub(super) fn start_reader(shared: &Arc<Shared>, number: u64) -> io::Result<()> {
    let shared = Arc::clone(shared);
    thread::Builder::new().name("obs-identity".to_owned()).spawn(move || read_processes(&shared, number)).map(drop)
}

/// Starts the thread that asks runtimes.
pub(super) fn start_asker(shared: &Arc<Shared>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    thread::Builder::new().name("obs-containers".to_owned()).spawn(move || ask_runtimes(&shared)).map(drop)
}

fn read_processes(shared: &Shared, number: u64) {
    let mut users = Users::new(&shared.options.passwd);
    while let Some(question) = next_question(shared, number) {
        let started_ns = question.started_ticks.map(|ticks| ticks.saturating_mul(read::NS_PER_TICK));
        let read = read::read(&shared.options.proc, question.pid, started_ns, &shared.redactor, &mut users);
        let read = read.map(|identity| with_container_by_state(shared, identity));
        let mut state = shared.lock();
        if state.reader != number {
            // Another thread took over; what this one has found is late, and was told to be unknown.
            state.stuck -= 1;
            return;
        }
        state.reading = None;
        state.asked.remove(&question);
        match read {
            Ok(identity) => {
                state.counts.processes_read += 1;
                state.counts.secrets_redacted += u64::from(identity.secrets_redacted);
                take(&mut state, identity);
                shared.wake.notify_all();
            }
            Err(error) => {
                let is_missed = error.kind() == io::ErrorKind::NotFound;
                let counts = &mut state.counts;
                let count = if is_missed { &mut counts.processes_missed } else { &mut counts.processes_failed };
                *count += 1;
                if let Some(ticks) = question.started_ticks {
                    let reason = if is_missed {
                        "it had ended before it could be looked at".into()
                    } else {
                        format!("/proc/{} cannot be read: {error}", question.pid).into()
                    };
                    state.note_unknown((question.pid, ticks), reason);
                }
            }
        }
    }
}

fn next_question(shared: &Shared, number: u64) -> Option<Question> {
    let mut state = shared.lock();
    loop {
        if state.is_over || state.reader != number {
            return None;
        }
        if let Some(question) = state.questions.pop_front() {
            state.reading = Some((question, Instant::now()));
            return Some(question);
        }
        state = shared.wake.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
    }
}

/// Looks whether a cgroup without a container's id in its path is a container's all the same.
fn with_container_by_state(shared: &Shared, mut identity: Identity) -> Identity {
    let Some(cgroup) = identity.cgroup.clone().filter(|cgroup| cgroup.len() > 1) else { return identity };
    let is_of_service = identity.unit.as_ref().is_some_and(|unit| unit.name.ends_with(".service"));
    if identity.container.is_some() || is_of_service {
        return identity;
    }
    let remembered = {
        let state = shared.lock();
        state.cgroups.get(&cgroup).filter(|(_, since)| since.elapsed() < CGROUP_REFRESH).map(|(found, _)| found.clone())
    };
    let found = remembered.unwrap_or_else(|| {
        let found = container::find_by_cgroup(&shared.options.runtimes, &cgroup);
        let mut state = shared.lock();
        if state.cgroups.len() >= CGROUPS_MAX {
            state.cgroups.clear();
        }
        state.cgroups.insert(cgroup, (found.clone(), Instant::now()));
        found
    });
    if let Some(KnownByState { id, runtime }) = found {
        identity.container = Some(read::not_asked_yet(id, Some(runtime), None));
        // The host's names are not those of a container's users.
        identity.user_name = None;
    }
    identity
}

/// Notes a process, with what is known of its container; who is not known yet is asked.
fn take(state: &mut State, mut identity: Identity) {
    if let Some(seen) = &identity.container {
        state.clock += 1;
        let clock = state.clock;
        if state.containers.len() >= CONTAINERS_MAX && !state.containers.contains_key(&seen.id) {
            state.evict_containers();
        }
        let container = state.containers.entry(Arc::clone(&seen.id)).or_insert_with(|| Container {
            cgroup: identity.cgroup.clone().unwrap_or_default(),
            known: Arc::clone(seen),
            is_queued: false,
            next: Instant::now(),
            failures: 0,
            touched: clock,
        });
        container.touched = clock;
        let is_due = !container.is_queued && Instant::now() >= container.next;
        if is_due && state.container_questions.len() < QUEUE_MAX {
            container.is_queued = true;
            state.container_questions.push_back(Arc::clone(&seen.id));
        }
        identity.container = Some(Arc::clone(&container.known));
    }
    state.note_known(identity);
}

fn ask_runtimes(shared: &Shared) {
    let options = &shared.options;
    while let Some((container, cgroup)) = next_container(shared) {
        let answer = container::ask(&options.runtimes, &container, &cgroup, options.answer_limit);
        let mut state = shared.lock();
        let known = match answer {
            Ok((answer, runtime)) => {
                state.counts.containers_answered += 1;
                Ok(known(&container, answer, runtime))
            }
            Err(reason) => {
                state.counts.containers_failed += 1;
                Err(reason)
            }
        };
        note_container(&mut state, &container, known);
    }
}

fn known(asked: &ContainerIdentity, answer: container::Answer, runtime: Option<Runtime>) -> ContainerIdentity {
    ContainerIdentity {
        id: Arc::clone(&asked.id),
        runtime: asked.runtime.or(runtime),
        pod_id: asked.pod_id.clone().or(answer.pod_id),
        details: answer.details,
        unknown: None,
    }
}

fn next_container(shared: &Shared) -> Option<(Arc<ContainerIdentity>, Arc<str>)> {
    let mut state = shared.lock();
    loop {
        if state.is_over {
            return None;
        }
        while let Some(id) = state.container_questions.pop_front() {
            // It may have been forgotten since.
            if let Some(container) = state.containers.get(&id) {
                return Some((Arc::clone(&container.known), Arc::clone(&container.cgroup)));
            }
        }
        state = shared.wake.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
    }
}

/// Notes what became of a question, and gives it to the container's processes.
fn note_container(state: &mut State, asked: &Arc<ContainerIdentity>, known: Result<ContainerIdentity, String>) {
    let Some(container) = state.containers.get_mut(&asked.id) else { return };
    container.is_queued = false;
    let wait: Duration;
    match known {
        Ok(known) => {
            container.failures = 0;
            wait = CONTAINER_REFRESH;
            container.known = Arc::new(known);
        }
        Err(reason) => {
            wait = FIRST_RETRY * (1 << container.failures);
            container.failures = (container.failures + 1).min(RETRY_DOUBLINGS_MAX);
            // What it once was it still is, also when its runtime is being restarted.
            if asked.unknown.is_some() {
                container.known = Arc::new(ContainerIdentity { unknown: Some(reason.into()), ..(**asked).clone() });
            }
        }
    }
    container.next = Instant::now() + wait;
    let known = Arc::clone(&container.known);
    for process in state.processes.values_mut() {
        if let Ok(identity) = &mut process.known
            && identity.container.as_ref().is_some_and(|container| container.id == known.id)
        {
            Arc::make_mut(identity).container = Some(Arc::clone(&known));
        }
    }
}
