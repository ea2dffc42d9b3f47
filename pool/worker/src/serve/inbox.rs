//! What came and is not done yet. Pure: no socket, no clock.

use std::collections::VecDeque;

use downbeat_link::{Load, ModelNumber, RequestNumber, ToWorker, Work};

/// What to do next.
#[derive(Debug, PartialEq)]
pub enum Order {
    /// Load a model.
    Load(Load),
    /// Forget one.
    Unload(ModelNumber),
    /// Compute these, of one message.
    Infer(ModelNumber, VecDeque<Work>),
}

/// The orders, in the order in which they came.
#[derive(Debug, Default)]
pub struct Inbox {
    orders: VecDeque<Order>,
    draining: bool,
}

impl Inbox {
    /// Takes a message in; gives the request that it cancels.
    pub fn take(&mut self, message: ToWorker) -> Option<RequestNumber> {
        match message {
            ToWorker::Load(load) => self.orders.push_back(Order::Load(load)),
            ToWorker::Unload(model) => self.orders.push_back(Order::Unload(model)),
            ToWorker::Infer(infer) => {
                self.orders.push_back(Order::Infer(infer.model, infer.requests.into()));
            }
            ToWorker::Cancel(id) => return self.cancel(id).then_some(id),
            ToWorker::Drain => self.draining = true,
        }
        None
    }

    fn cancel(&mut self, id: RequestNumber) -> bool {
        for order in &mut self.orders {
            if let Order::Infer(_, requests) = order
                && let Some(at) = requests.iter().position(|request| request.id == id)
            {
                requests.remove(at);
                return true;
            }
        }
        false
    }

    /// The next order.
    pub fn pop(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    /// Puts what is left of an order back to where it was.
    pub fn put_back(&mut self, model: ModelNumber, rest: VecDeque<Work>) {
        if !rest.is_empty() {
            self.orders.push_front(Order::Infer(model, rest));
        }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty()
    }

    /// Whether nothing more will come.
    pub fn is_draining(&self) -> bool {
        self.draining
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use downbeat_link::Infer;

    fn work(id: u64) -> Work {
        let (id, outputs, inputs) = (RequestNumber(id), vec![], vec![]);
        Work { id, deadline_ns: None, outputs, sequence: None, inputs }
    }

    fn infer(ids: impl IntoIterator<Item = u64>) -> ToWorker {
        let requests = ids.into_iter().map(work).collect();
        ToWorker::Infer(Infer { model: ModelNumber(1), requests })
    }

    #[test]
    fn a_cancelled_request_is_gone_and_told_once() {
        let mut inbox = Inbox::default();
        assert_eq!(inbox.take(infer([1, 2])), None);
        assert_eq!(inbox.take(infer([3])), None);
        assert_eq!(inbox.take(ToWorker::Cancel(RequestNumber(2))), Some(RequestNumber(2)));
        assert_eq!(inbox.take(ToWorker::Cancel(RequestNumber(2))), None);
        assert_eq!(inbox.take(ToWorker::Cancel(RequestNumber(9))), None);
        let Some(Order::Infer(_, rest)) = inbox.pop() else { panic!() };
        assert_eq!(rest, [work(1)]);
    }

    #[test]
    fn what_is_put_back_is_next() {
        let mut inbox = Inbox::default();
        inbox.take(infer([1, 2]));
        inbox.take(ToWorker::Unload(ModelNumber(1)));
        let Some(Order::Infer(model, mut rest)) = inbox.pop() else { panic!() };
        rest.pop_front();
        inbox.put_back(model, rest);
        assert_eq!(inbox.pop(), Some(Order::Infer(model, [work(2)].into())));
        inbox.put_back(model, VecDeque::new());
        assert_eq!(inbox.pop(), Some(Order::Unload(ModelNumber(1))));
        assert!(inbox.is_empty());
    }

    #[test]
    fn draining_keeps_what_came_before() {
        let mut inbox = Inbox::default();
        inbox.take(infer([1]));
        assert!(!inbox.is_draining());
        inbox.take(ToWorker::Drain);
        assert!(inbox.is_draining() && !inbox.is_empty());
    }
}
