//! Rate limits.
//!
//! A check takes less time than rustler needs to pass it its arguments, for which it allocates a
//! vector, and to find the type of a resource, which it looks up in a hash map: through
//! `ResourceArc` a check takes 0.98 of the time of `ets:update_counter/4`, and like this 0.51
//! (`tests/bench/run --only nif`). The check is therefore a function of the C interface, and the
//! resource type of limiters is kept here.

use std::num::NonZeroU32;
use std::panic::catch_unwind;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};
use std::time::Instant;

use gater_core::limit::SharedLimiter;
use rustler::codegen_runtime::{c_int, c_void, inventory};
use rustler::sys::{
    ErlNifEnv, ErlNifResourceFlags, ErlNifResourceType, ErlNifTerm, enif_alloc_resource,
    enif_get_resource, enif_make_badarg, enif_make_resource, enif_open_resource_type,
    enif_release_resource,
};
use rustler::types::atom;
use rustler::{Binary, Env, Error, Nif, NifResult, Term};

/// The buckets of one channel.
struct Limiter {
    begun: Instant,
    buckets: SharedLimiter,
}

// The runtime aligns memory of resources for machine words.
const _: () = assert!(align_of::<Limiter>() <= align_of::<usize>());

/// The resource type of limiters, set while the library is loaded and before any function is
/// called.
static LIMITER: AtomicPtr<ErlNifResourceType> = AtomicPtr::new(null_mut());

/// Registers the resource type of limiters with the runtime.
pub fn open(env: Env<'_>) -> bool {
    // SAFETY: this runs while the library is loaded, the name ends with a zero byte, and the
    // destructor is the one for resources that `limiter` makes.
    let kind = unsafe {
        enif_open_resource_type(
            env.as_c_arg(),
            null(),
            c"limiter".as_ptr(),
            Some(forget),
            ErlNifResourceFlags::ERL_NIF_RT_CREATE,
            null_mut(),
        )
    };
    LIMITER.store(kind.cast_mut(), Relaxed);
    !kind.is_null()
}

unsafe extern "C" fn forget(_env: *mut ErlNifEnv, limiter: *mut c_void) {
    // SAFETY: nothing refers to the resource any more, and it has been a limiter since it was made.
    // A limiter whose destructor panics is leaked.
    let _ = catch_unwind(|| unsafe { limiter.cast::<Limiter>().drop_in_place() });
}

/// `limiter(Rate, MaxTopics) -> Limiter`: allows `Rate` messages per second and topic.
#[rustler::nif]
fn limiter(env: Env<'_>, rate: u32, max_topics: u32) -> Option<Term<'_>> {
    let rate = NonZeroU32::new(rate)?;
    let limiter =
        Limiter { begun: Instant::now(), buckets: SharedLimiter::new(rate, max_topics as usize) };
    // SAFETY: the type is that of limiters, and the size is that of one limiter.
    let memory = unsafe { enif_alloc_resource(LIMITER.load(Relaxed), size_of::<Limiter>()) };
    if memory.is_null() {
        return None;
    }
    // SAFETY: the memory is large enough, aligned, and exclusively owned here. From now on the
    // term, which belongs to this environment, keeps the resource alive.
    unsafe {
        memory.cast::<Limiter>().write(limiter);
        let term = enif_make_resource(env.as_c_arg(), memory);
        enif_release_resource(memory);
        Some(Term::new(env, term))
    }
}

/// Borrows the limiter from the caller. Counting references would cost more than the check.
fn borrowed(term: Term<'_>) -> NifResult<&Limiter> {
    let mut limiter = null();
    // SAFETY: the term belongs to the environment, and the type is that of limiters.
    let found = unsafe {
        enif_get_resource(
            term.get_env().as_c_arg(),
            term.as_c_arg(),
            LIMITER.load(Relaxed),
            &mut limiter,
        )
    };
    if found == 0 {
        return Err(Error::BadArg);
    }
    // SAFETY: the runtime has found the resource to be a limiter. It lives as long as the term, and
    // only its atomics change.
    Ok(unsafe { &*limiter.cast::<Limiter>() })
}

/// `check(Limiter, Topic, NowNanos) -> boolean()`: takes a token at the given time, which must not
/// go backwards.
#[rustler::nif(name = "check")]
fn check_at(limiter: Term<'_>, topic: Binary<'_>, now_nanos: u64) -> NifResult<bool> {
    let limiter = borrowed(limiter)?;
    Ok(limiter.buckets.check(&topic, now_nanos))
}

fn check_now(limiter: Term<'_>, topic: Term<'_>) -> NifResult<bool> {
    let limiter = borrowed(limiter)?;
    let topic = Binary::from_term(topic)?;
    let now = u64::try_from(limiter.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(limiter.buckets.check(&topic, now))
}

/// `check(Limiter, Topic) -> boolean()`: takes a token at the present time.
unsafe extern "C" fn check(
    env: *mut ErlNifEnv,
    _count: c_int,
    arguments: *const ErlNifTerm,
) -> ErlNifTerm {
    let taken = catch_unwind(|| {
        let call = ();
        // SAFETY: the environment is that of the call, which has two arguments, as declared below.
        // Both stay valid during the call.
        let (limiter, topic) = unsafe {
            let env = Env::new(&call, env);
            (Term::new(env, *arguments), Term::new(env, *arguments.add(1)))
        };
        check_now(limiter, topic)
    });
    match taken {
        Ok(Ok(true)) => atom::true_().as_c_arg(),
        Ok(Ok(false)) => atom::false_().as_c_arg(),
        // SAFETY: the environment is that of the call.
        _ => unsafe { enif_make_badarg(env) },
    }
}

inventory::submit! {
    Nif { name: c"check".as_ptr(), arity: 2, flags: 0, raw_func: check }
}
