//! How often services and containers were started again.
//!
//! A restart is: all processes that something had in one reading are gone, and it has others that started later than the
//! newest of those. So a service whose main process is replaced while its workers go on has not been restarted, a service
//! that was stopped and started has, and several restarts between two readings are seen as one. A service that a timer
//! starts is "restarted" by each of its later runs.

use std::{collections::HashMap, sync::Arc};

use super::{
    super::{
        budget::OTHER,
        emit::{
            Out,
            Value::{Name, Word},
        },
        metrics as m,
    },
    Found, Group,
};

/// Most services and containers that are followed. What exceeds it is counted together.
const FOLLOWED_MAX: usize = 1_024;

/// Readings after which a service or container is forgotten that has no processes: an hour, at one in ten seconds.
const FORGOTTEN_AFTER_READINGS: u64 = 360;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Service(Arc<str>, Option<u32>),
    Container(Arc<str>),
}

#[derive(Debug)]
struct Followed {
    /// When the newest process of the last reading that had any started, in ticks since boot.
    newest_ticks: u64,
    restarts: u64,
    reading: u64,
    user: Option<Arc<str>>,
}

/// Follows services and containers.
#[derive(Debug, Default)]
pub(super) struct Restarts {
    followed: HashMap<Who, Followed>,
    reading: u64,
    has_others: bool,
}

impl Restarts {
    pub(super) fn read(&mut self, found: &Found, out: &mut Out<'_>) {
        self.reading += 1;
        for ((name, user_id), group) in &found.services {
            self.follow(Who::Service(Arc::clone(name), *user_id), group);
        }
        for (id, group) in &found.containers {
            self.follow(Who::Container(Arc::clone(id)), group);
        }
        let reading = self.reading;
        self.followed.retain(|_, followed| reading - followed.reading < FORGOTTEN_AFTER_READINGS);
        for (who, followed) in &self.followed {
            let count = followed.restarts as f64;
            match who {
                Who::Service(name, _) => {
                    let labels = [Word("service"), Name(name)];
                    match &followed.user {
                        Some(user) => out.put(m::RESTARTS, &[labels[0], labels[1], Name(user)], count),
                        None => out.put(m::RESTARTS, &labels, count),
                    }
                }
                Who::Container(id) => out.put(m::RESTARTS, &[Word("container"), Name(id)], count),
            }
        }
        if self.followed.is_empty() {
            out.absent(&[m::RESTARTS], "no service and no container has a cgroup");
        } else if self.has_others {
            let reason = format!("beyond {FOLLOWED_MAX} services and containers they are not followed ({OTHER})");
            out.absent(&[m::RESTARTS], reason);
        }
    }

    fn follow(&mut self, who: Who, group: &Group) {
        let (Some(oldest_ticks), Some(newest_ticks)) = (group.oldest_ticks, group.newest_ticks) else { return };
        if let Some(followed) = self.followed.get_mut(&who) {
            followed.restarts += u64::from(oldest_ticks > followed.newest_ticks);
            followed.newest_ticks = newest_ticks;
            followed.reading = self.reading;
        } else if self.followed.len() < FOLLOWED_MAX {
            let user = match &who {
                Who::Service(_, user_id) => user_id.map(|id| id.to_string().into()),
                Who::Container(_) => None,
            };
            self.followed.insert(who, Followed { newest_ticks, restarts: 0, reading: self.reading, user });
        } else {
            self.has_others = true;
        }
    }
}
