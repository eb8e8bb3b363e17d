//! Who is let in next: the higher rank, then the tenant whose turn is longest ago, then who came first.

use crate::job::Job;
use crate::request::RequestId;
use std::cmp::Reverse;
use std::collections::HashMap;

/// Requests that wait.
#[derive(Default)]
pub(crate) struct Queue {
    jobs: Vec<Job>,
    /// When each tenant was last let in, or came.
    turns: HashMap<u32, u64>,
    clock: u64,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Takes a job in; one that ran before keeps its age, which is its id.
    pub(crate) fn push(&mut self, job: Job) {
        self.turns.entry(job.request.tenant).or_insert(self.clock);
        self.jobs.push(job);
    }

    /// Removes a job that is not let in.
    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Job> {
        let place = self.jobs.iter().position(|job| job.id == id)?;
        Some(self.jobs.swap_remove(place))
    }

    /// The next to be let in but for those in `without`. One pass over all that wait.
    pub(crate) fn next(&self, without: &[RequestId]) -> Option<&Job> {
        let left = self.jobs.iter().filter(|job| !without.contains(&job.id));
        left.min_by_key(|job| (Reverse(job.rank()), self.turns[&job.request.tenant], job.id))
    }

    /// Takes out `next`, to be settled or put back.
    pub(crate) fn take(&mut self, id: RequestId) -> Job {
        self.remove(id).expect("`next` named a job that waits")
    }

    /// Counts a job as let in: its tenant's turn is over, and older ones that it passed by are nearer to
    /// the next rank.
    pub(crate) fn settle(&mut self, job: &Job) {
        self.clock += 1;
        self.turns.insert(job.request.tenant, self.clock);
        for other in &mut self.jobs {
            if other.id < job.id && other.rank() < job.rank() {
                other.passed += 1;
            }
        }
        if self.jobs.is_empty() {
            self.turns.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Request;
    use crate::sample::Sampling;
    use crate::stop::StopMatcher;

    fn come(queue: &mut Queue, id: u64, priority: i32, tenant: u32) {
        let request = Request { priority, tenant, ..Request::new(vec![1], Sampling::GREEDY) };
        queue.push(Job::new(RequestId(id), request, StopMatcher::new::<&str>(&[]).unwrap()));
    }

    fn let_in(queue: &mut Queue) -> u64 {
        let id = queue.next(&[]).unwrap().id;
        let job = queue.take(id);
        queue.settle(&job);
        id.0
    }

    #[test]
    fn tenants_take_turns_and_their_requests_come_in_order() {
        let mut queue = Queue::default();
        (0..4).for_each(|id| come(&mut queue, id, 0, 7));
        assert_eq!(let_in(&mut queue), 0);
        for (id, tenant) in [(4, 8), (5, 8), (6, 9)] {
            come(&mut queue, id, 0, tenant);
        }
        let order: Vec<u64> = (0..6).map(|_| let_in(&mut queue)).collect();
        assert_eq!(order, [1, 4, 6, 2, 5, 3]);
        assert!(queue.is_empty() && queue.turns.is_empty());
    }

    #[test]
    fn the_higher_goes_first_and_the_lower_does_not_wait_for_ever() {
        let mut queue = Queue::default();
        come(&mut queue, 0, 0, 0);
        let mut ids = 1..;
        let passed = ids.find(|&id| {
            come(&mut queue, id, 1, 1);
            let_in(&mut queue) == 0
        });
        // It has risen to their rank, and tenants take turns.
        assert_eq!(passed, Some(u64::from(crate::job::PATIENCE) + 1));
    }

    #[test]
    fn who_is_passed_over_for_now_keeps_its_place() {
        let mut queue = Queue::default();
        (0..3).for_each(|id| come(&mut queue, id, 0, 0));
        assert_eq!(queue.next(&[RequestId(0)]).unwrap().id, RequestId(1));
        let job = queue.take(RequestId(0));
        queue.push(job);
        assert_eq!(let_in(&mut queue), 0);
        assert!(queue.next(&[RequestId(1), RequestId(2)]).is_none());
    }
}
