//! Every rule of the store, held by the embedded one and by the same one behind client and server.

mod rules;
mod watches;

macro_rules! conformance {
    ($($group:ident::$rule:ident,)*) => {
        mod embedded {
            $(#[tokio::test] async fn $rule() { super::$group::$rule(&crate::support::embedded()).await; })*
        }
        mod over_grpc {
            $(#[tokio::test] async fn $rule() {
                let remote = crate::support::remote(crate::support::embedded()).await;
                super::$group::$rule(&remote.state).await;
            })*
        }
    };
}

conformance! {
    rules::what_is_created_is_stored_as_sent_with_version_owner_and_time,
    rules::an_absent_resource_is_not_found,
    rules::a_second_create_finds_it_existing,
    rules::a_create_must_not_name_another_owner,
    rules::names_must_not_be_empty,
    rules::a_too_large_resource_is_refused,
    rules::an_update_brings_the_next_version_and_keeps_owner_and_creation_time,
    rules::an_update_of_an_old_or_undefined_version_conflicts,
    rules::an_update_of_an_absent_resource_is_not_found,
    rules::an_update_by_another_owner_is_an_owner_conflict_before_all_else,
    rules::an_update_expects_the_running_phase_unless_told_otherwise,
    rules::bytes_and_yaml_of_a_spec_survive,
    rules::a_resource_with_finalizers_is_not_destroyed,
    rules::a_destroy_minds_owner_and_absence,
    rules::a_resource_created_anew_begins_at_version_one,
    rules::a_teardown_marks_once_and_tells_whether_it_is_free,
    rules::a_teardown_minds_owner_and_absence,
    rules::a_list_is_of_one_kind_and_sorted,
    rules::a_list_takes_label_queries,
    rules::a_list_takes_id_queries,
    rules::a_bad_id_query_is_refused,
    rules::modify_creates_changes_and_leaves_alone,
    rules::finalizers_go_on_and_off_as_the_owner,
    rules::two_writers_of_one_counter_lose_nothing,
    rules::teardown_and_destroy_waits_for_the_last_finalizer,
    rules::teardown_and_destroy_is_content_when_another_destroyed_it,
    watches::a_plain_watch_begins_with_the_next_change,
    watches::contents_come_first_without_bookmarks_then_the_bootstrap_mark,
    watches::a_bootstrap_bookmark_comes_without_contents,
    watches::an_aggregated_watch_gives_the_contents_at_once,
    watches::a_watch_sees_only_its_kind,
    watches::a_watch_of_one_begins_with_it_as_it_is,
    watches::a_watch_of_an_absent_one_begins_with_its_absence,
    watches::a_watch_of_one_takes_no_contents_and_no_queries,
    watches::a_bookmark_replays_what_came_after_it,
    watches::a_bookmark_of_one_resource_replays_without_a_beginning,
    watches::a_bad_bookmark_is_refused_at_the_start,
    watches::a_filtered_watch_turns_updates_into_beginnings_and_ends,
    watches::a_refused_write_gives_no_event,
    watches::a_teardown_is_an_update,
}
