//! Calls made of several: get, change, compare and swap, again if somebody else was first.

use futures_util::StreamExt;

use crate::{
    EventType, Phase, Pointer, Resource, State, StateError, UpdateOptions, WatchOptions, WatchTarget,
};

/// How often a change is tried before the conflict is the answer. Of any number of writers one succeeds in
/// each round, so this bounds how many may write one resource at the same moment.
const MODIFY_ATTEMPTS: usize = 64;

/// What to do when there is no such resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Create it: the change gets an empty one.
    Create,
    /// Answer [`StateError::NotFound`].
    Fail,
}

/// How a change is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModifyOptions {
    /// Who changes it; `None` means as its current owner, whoever that is.
    pub owner: Option<String>,
    /// What to do when there is no such resource.
    pub missing: Missing,
    /// The phase it must be in; `None` for any.
    pub expected_phase: Option<Phase>,
}

/// Changes a running resource, or creates it, as `owner`. `change` may be called several times, each time
/// with what is stored then; when it changes nothing, nothing is written. Answers what is stored.
///
/// # Errors
/// What `change` answers, and those of get, create and update.
pub async fn modify<S, F>(
    state: &S,
    pointer: &Pointer,
    owner: &str,
    missing: Missing,
    change: F,
) -> Result<Resource, StateError>
where
    S: State + ?Sized,
    F: FnMut(&mut Resource) -> Result<(), StateError> + Send,
{
    let options =
        ModifyOptions { owner: Some(owner.to_owned()), missing, expected_phase: Some(Phase::Running) };
    modify_with(state, pointer, &options, change).await
}

/// [`modify`] with all options.
///
/// # Errors
/// As [`modify`].
pub async fn modify_with<S, F>(
    state: &S,
    pointer: &Pointer,
    options: &ModifyOptions,
    mut change: F,
) -> Result<Resource, StateError>
where
    S: State + ?Sized,
    F: FnMut(&mut Resource) -> Result<(), StateError> + Send,
{
    let mut conflict = StateError::VersionConflict(format!("resource {pointer} changes too often"));
    for _ in 0..MODIFY_ATTEMPTS {
        let result = match state.get(pointer).await {
            Ok(current) => {
                let mut changed = current.clone();
                change(&mut changed)?;
                if changed == current {
                    return Ok(current);
                }
                let owner = options.owner.clone().unwrap_or_else(|| current.metadata.owner.clone());
                let update = UpdateOptions { owner, expected_phase: options.expected_phase };
                state.update(changed, &update).await
            }
            Err(StateError::NotFound(_)) if options.missing == Missing::Create => {
                let mut new = Resource::empty(pointer);
                change(&mut new)?;
                state.create(new, options.owner.as_deref().unwrap_or_default()).await
            }
            Err(error) => return Err(error),
        };
        match result {
            Err(error @ (StateError::VersionConflict(_) | StateError::AlreadyExists(_))) => conflict = error,
            // Destroyed since the get: the next round decides what that means.
            Err(error @ StateError::NotFound(_)) if options.missing == Missing::Create => conflict = error,
            other => return other,
        }
    }
    Err(conflict)
}

/// Puts a finalizer on a running resource, as its owner.
///
/// # Errors
/// As [`modify`]; a resource that is being torn down is a [`StateError::PhaseConflict`].
pub async fn add_finalizer<S: State + ?Sized>(
    state: &S,
    pointer: &Pointer,
    finalizer: &str,
) -> Result<Resource, StateError> {
    let options = ModifyOptions { owner: None, missing: Missing::Fail, expected_phase: Some(Phase::Running) };
    let change = |resource: &mut Resource| {
        resource.insert_finalizer(finalizer);
        Ok(())
    };
    modify_with(state, pointer, &options, change).await
}

/// Takes a finalizer off a resource in any phase, as its owner. A resource that is gone has none: that is
/// no error.
///
/// # Errors
/// As [`modify`].
pub async fn remove_finalizer<S: State + ?Sized>(
    state: &S,
    pointer: &Pointer,
    finalizer: &str,
) -> Result<(), StateError> {
    let options = ModifyOptions { owner: None, missing: Missing::Fail, expected_phase: None };
    let change = |resource: &mut Resource| {
        resource.drop_finalizer(finalizer);
        Ok(())
    };
    match modify_with(state, pointer, &options, change).await {
        Ok(_) | Err(StateError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Teardown by get and update, for servers that lack the call.
pub(crate) async fn teardown_by_update<S: State + ?Sized>(
    state: &S,
    pointer: &Pointer,
    owner: &str,
) -> Result<bool, StateError> {
    let options =
        ModifyOptions { owner: Some(owner.to_owned()), missing: Missing::Fail, expected_phase: None };
    let change = |resource: &mut Resource| {
        resource.metadata.phase = Phase::TearingDown;
        Ok(())
    };
    let torn = modify_with(state, pointer, &options, change).await?;
    Ok(torn.metadata.finalizers.is_empty())
}

/// Tears a resource down, waits until nobody holds a finalizer, and destroys it. Works with servers that
/// lack the call of that name. No time limit: drop the future to give up; the teardown stays.
///
/// # Errors
/// Those of teardown, watch and destroy. That somebody else destroyed it meanwhile is none.
pub async fn teardown_and_destroy<S: State + ?Sized>(
    state: &S,
    pointer: &Pointer,
    owner: &str,
) -> Result<(), StateError> {
    if state.teardown(pointer, owner).await? {
        match state.destroy(pointer, owner).await {
            Err(StateError::PendingFinalizers(_)) => {}
            Err(StateError::NotFound(_)) => return Ok(()),
            other => return other,
        }
    }
    let target = WatchTarget::resource(pointer.clone());
    let mut events = state.watch(&target, &WatchOptions::default()).await?;
    while let Some(batch) = events.next().await {
        for event in batch? {
            match event.typ {
                EventType::Destroyed => return Ok(()),
                EventType::Errored => {
                    let why = event.error.unwrap_or_default();
                    return Err(StateError::Unavailable(format!("watch of {pointer} ended: {why}")));
                }
                EventType::Created | EventType::Updated if event.resource.metadata.finalizers.is_empty() => {
                    match state.destroy(pointer, owner).await {
                        Err(StateError::PendingFinalizers(_)) => {}
                        Err(StateError::NotFound(_)) => return Ok(()),
                        other => return other,
                    }
                }
                EventType::Created | EventType::Updated | EventType::Bootstrapped | EventType::Noop => {}
            }
        }
    }
    Err(StateError::Unavailable(format!("watch of {pointer} ended")))
}
