use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::DateTime;
use proptest::prelude::*;

use super::*;
use crate::cloud::Phase;

const TEN: Budget = Budget { burst: 10.0, per_second: 2.0, page: 50 };

fn start() -> Time {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

fn after(ms: i64) -> Time {
    start() + TimeDelta::milliseconds(ms)
}

fn taken(bucket: &mut Bucket, purpose: Purpose, now: Time) -> usize {
    std::iter::repeat_with(|| bucket.take(purpose, now)).take_while(Result::is_ok).count()
}

#[test]
fn creates_leave_a_fifth_for_lists_and_deletes() {
    let mut bucket = Bucket::new(TEN, start());
    assert_eq!(taken(&mut bucket, Purpose::Create, start()), 8);
    assert_eq!(bucket.take(Purpose::Create, start()), Err(Duration::from_millis(500)));
    assert_eq!(taken(&mut bucket, Purpose::Keep, start()), 2);
    assert_eq!(bucket.take(Purpose::Keep, start()), Err(Duration::from_millis(500)));
    // What is kept is filled first.
    assert_eq!(bucket.take(Purpose::Create, after(1000)), Err(Duration::from_millis(500)));
    assert_eq!(taken(&mut bucket, Purpose::Create, after(1500)), 1);
}

#[test]
fn what_the_cloud_says_is_believed() {
    let mut bucket = Bucket::new(TEN, start());
    bucket.heard(Rate { remaining: Some(1), backoff_until: None }, None, start());
    assert_eq!(taken(&mut bucket, Purpose::Keep, start()), 1);
    // More than thought is not: others use the account too.
    bucket.heard(Rate { remaining: Some(5000), backoff_until: None }, None, start());
    assert_eq!(taken(&mut bucket, Purpose::Keep, start()), 0);

    let mut bucket = Bucket::new(TEN, start());
    let until = |ms| Rate { remaining: None, backoff_until: Some(after(ms)) };
    bucket.heard(until(9000), Some(Class::Throttled(Some(Duration::from_secs(7)))), start());
    bucket.heard(until(3000), None, start());
    assert_eq!(bucket.take(Purpose::Keep, start()), Err(Duration::from_secs(9)), "an earlier answer does not open again");
    assert_eq!(bucket.closed_until(after(8999)), Some(after(9000)));
    assert_eq!(bucket.take(Purpose::Keep, after(9000)), Ok(()));
    assert_eq!(bucket.closed_until(after(9000)), None);
}

#[test]
fn a_refusal_without_a_time_is_answered_by_longer_and_longer_silence() {
    let mut bucket = Bucket::new(TEN, start());
    let mut now = start();
    let mut refused = |bucket: &mut Bucket| {
        bucket.heard(Rate::default(), Some(Class::Throttled(None)), now);
        let wait = bucket.take(Purpose::Keep, now).unwrap_err();
        now += wait;
        assert_eq!(bucket.take(Purpose::Keep, now), Ok(()));
        wait.as_secs()
    };
    let pauses: Vec<_> = (0..8).map(|_| refused(&mut bucket)).collect();
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64]);
    bucket.heard(Rate::default(), None, start());
    assert_eq!(refused(&mut bucket), 1);
}

#[test]
fn a_long_list_is_paid_for_afterwards() {
    let mut bucket = Bucket::new(TEN, start());
    bucket.take(Purpose::Keep, start()).unwrap();
    bucket.listed(49);
    assert_eq!(taken(&mut bucket.clone(), Purpose::Keep, start()), 9);
    bucket.listed(1000);
    assert_eq!(bucket.take(Purpose::Keep, start()), Err(Duration::from_secs(6)));
}

#[test]
fn one_credential_has_one_limiter_for_as_long_as_it_is_used() {
    let limiters = Limiters::default();
    let first = limiters.of("vultr", "token", TEN);
    assert!(Arc::ptr_eq(&first, &limiters.of("vultr", "token", TEN)));
    assert!(!Arc::ptr_eq(&first, &limiters.of("vultr", "other", TEN)));
    assert!(!Arc::ptr_eq(&first, &limiters.of("hetzner", "token", TEN)));
    assert!(!format!("{limiters:?}").contains("token"));
    drop(first);
    let _third = limiters.of("vultr", "third", TEN);
    assert_eq!(limiters.0.lock().unwrap().len(), 1);
}

proptest! {
    /// In any stretch no more than the burst and what came back meanwhile; and who waits as told gets room.
    #[test]
    fn never_more_than_the_budget(steps in proptest::collection::vec((0_i64..3000, any::<bool>()), 1..80)) {
        let mut bucket = Bucket::new(TEN, start());
        let (mut now, mut times) = (start(), Vec::new());
        for (ms, create) in steps {
            now += TimeDelta::milliseconds(ms);
            let purpose = if create { Purpose::Create } else { Purpose::Keep };
            match bucket.take(purpose, now) {
                Ok(()) => times.push(now),
                Err(wait) => {
                    let mut later = bucket.clone();
                    prop_assert_eq!(later.take(purpose, now + wait + TimeDelta::milliseconds(1)), Ok(()));
                }
            }
        }
        for (i, from) in times.iter().enumerate() {
            for (n, to) in times[i..].iter().enumerate() {
                let seconds = (*to - *from).as_seconds_f64();
                prop_assert!(u32::try_from(n).map(f64::from).unwrap() < 10.0 + 2.0 * seconds + 0.01);
            }
        }
    }

    /// A clock that is set back opens nothing and closes nothing for good.
    #[test]
    fn a_clock_that_goes_back_is_one_that_stands(back in 1_i64..1_000_000) {
        let mut bucket = Bucket::new(TEN, start());
        taken(&mut bucket, Purpose::Keep, start());
        prop_assert!(bucket.take(Purpose::Keep, after(-back)).is_err());
        prop_assert_eq!(bucket.take(Purpose::Keep, after(500)), Ok(()));
    }
}

/// Counts how often it is asked.
struct Counted(AtomicUsize);

impl Cloud for Counted {
    fn list<'a>(&'a self, pool: &'a str) -> BoxFuture<'a, Result<Vec<Vm>, Error>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let marks = Marks::unreadable(pool, start());
        async { Ok(vec![Vm { id: "1".into(), marks, phase: Phase::Running, address: None }]) }.boxed()
    }
    fn find<'a>(&'a self, _: &'a Marks) -> BoxFuture<'a, Result<Option<Vm>, Error>> {
        async { Ok(None) }.boxed()
    }
    fn create<'a>(&'a self, _: &'a Order) -> BoxFuture<'a, Result<Vm, Error>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        async { Err(Error { class: Class::Throttled(Some(Duration::from_mins(10))), message: String::new() }) }.boxed()
    }
    fn delete<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        async { Ok(()) }.boxed()
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { idempotent_create: false, unique_names: false, settle_seconds: 7 }
    }
    fn rate(&self) -> Rate {
        Rate::default()
    }
}

#[tokio::test]
async fn what_one_pool_is_told_all_pools_of_the_credential_heed() {
    let limiters = Limiters::default();
    let cloud = Arc::new(Counted(AtomicUsize::new(0)));
    let limited = || Limited::new(Arc::clone(&cloud) as Arc<dyn Cloud>, limiters.of("x", "token", TEN), None);
    let (one, another) = (limited(), limited());
    assert_eq!(another.list("uid").await.unwrap().len(), 1);
    let order = Order { name: String::new(), marks: Marks::unreadable("uid", start()), user_data: String::new() };
    assert!(one.create(&order).await.is_err());
    let refused = another.list("uid").await.unwrap_err();
    assert!(matches!(refused.class, Class::Throttled(Some(wait)) if wait > Duration::from_secs(500)), "{refused:?}");
    assert_eq!(cloud.0.load(Ordering::SeqCst), 2, "the cloud was not asked");
    assert!(another.rate().backoff_until.is_some());
    assert_eq!(another.capabilities().settle_seconds, 7);
}
