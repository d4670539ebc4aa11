-module(esdb_gater_link_core_tests).

-include_lib("eunit/include/eunit.hrl").

-define(CORE, esdb_gater_link_core).
-define(INFO, #{channels => #{c => #{}}, gateways => []}).

%% The link as its process runs it: the state, the core, and the actions of the last event.
-record(link, {state = idle, core, actions = []}).

%%% idle

a_link_without_gateways_stays_idle_test() ->
    ?assertEqual({idle, []}, seen(event(start, idle([])))).

a_link_with_gateways_tries_the_first_test() ->
    ?assertEqual({connecting, [cancel_backoff, {connect, 'a@h'}, {state_timeout, 1000}]},
                 seen(event(start, idle(['a@h', 'b@h'])))).

the_only_gateway_is_given_more_time_test() ->
    ?assertMatch({connecting, [_, {connect, 'a@h'}, {state_timeout, 10000}]},
                 seen(event(start, idle(['a@h'])))).

after_a_crash_the_members_that_were_known_are_tried_first_test() ->
    ?assertMatch({connecting, [{share, gateways, ['m@h']}, _, {connect, 'm@h'}, _]},
                 seen(event({start, {members, ['m@h']}}, idle(['a@h'])))).

after_a_crash_the_embedded_gateway_is_used_again_test() ->
    ?assertMatch({connecting, [_, {connect, 'e@h'}, _]},
                 seen(event({start, {embedded, 'e@h'}}, embedded()))).

when_the_pause_is_over_it_connects_test() ->
    ?assertMatch({connecting, [_, {connect, 'a@h'}, _]},
                 seen(event(connect, event({connected, false}, connecting(['a@h']))))).

the_end_of_a_pause_is_ignored_in_all_other_states_test() ->
    [?assertEqual({State, []}, seen(event(connect, Link)))
     || #link{state = State} = Link <- [connecting(['a@h']), attaching(), restoring(), attached()]].

%%% connecting

a_connected_gateway_is_asked_for_a_session_test() ->
    ?assertEqual({attaching, [{tell_followers, {up, 'a@h'}}, {watch, 'a@h'}, {cancel, settle},
                              {attach, 1}, {state_timeout, 10000}]},
                 seen(event({connected, true}, connecting(['a@h'])))).

one_that_cannot_be_connected_makes_way_for_the_next_at_once_test() ->
    [?assertEqual({connecting, [{close, 'a@h', keep}, cancel_backoff, {connect, 'b@h'},
                                {state_timeout, 10000}]},
                  seen(event(Failure, connecting(['a@h', 'b@h']))))
     || Failure <- [{connected, false}, {connected, ignored}, timeout]].

when_all_have_failed_there_is_a_pause_and_one_warning_test() ->
    First = event({connected, false}, connecting(['a@h'])),
    ?assertEqual({idle, [{close, 'a@h', keep}, {report, {unreachable, ['a@h'], unreachable}},
                         {backoff, 50}]}, seen(First)),
    Second = event({connected, false}, event(connect, First)),
    ?assertEqual({idle, [{close, 'a@h', keep}, {backoff, 100}]}, seen(Second)).

the_warning_says_that_this_node_has_no_name_test() ->
    ?assertMatch({idle, [_, {report, {unreachable, ['a@h'], nameless}}, _]},
                 seen(event({connected, ignored}, connecting(['a@h'])))).

the_loss_of_a_service_that_is_not_watched_yet_is_ignored_test() ->
    ?assertEqual({connecting, []}, seen(event({lost, noproc}, connecting(['a@h'])))).

%%% attaching

both_the_answer_and_the_registry_are_needed_in_either_order_test() ->
    Answered = event({answer, {attach, 1}, {ok, ?INFO}}, attaching()),
    ?assertEqual({attaching, []}, seen(Answered)),
    ?assertMatch({attached, _}, seen(event({registry, 7, [], false}, Answered))),
    Received = event({registry, 7, [], false}, attaching()),
    ?assertEqual({attaching, []}, seen(Received)),
    ?assertMatch({attached, _}, seen(event({answer, {attach, 1}, {ok, ?INFO}}, Received))).

the_answer_to_an_attach_before_the_last_does_not_count_test() ->
    Again = event({left, 'x@h'}, attaching()),
    ?assertMatch({attaching, [_, {attach, 2}, _]}, seen(Again)),
    Received = event({registry, 7, [], false}, Again),
    ?assertEqual({attaching, []}, seen(event({answer, {attach, 1}, {ok, ?INFO}}, Received))),
    ?assertMatch({attached, _}, seen(event({answer, {attach, 2}, {ok, ?INFO}}, Received))).

a_gateway_that_refuses_the_session_is_cut_and_reported_test() ->
    Refusal = {error, {unsupported_version, [2]}},
    [?assertMatch({idle, [{report, {refused, 'a@h', Answer}}, {close, 'a@h', cut},
                          {tell_followers, down}, {report, {unreachable, ['a@h'], no_answer}},
                          {backoff, 50}]},
                  seen(event({answer, {attach, 1}, Answer}, attaching())))
     || Answer <- [Refusal, {ok, not_a_map}, garbage]].

a_gateway_that_gives_no_session_is_cut_test() ->
    ?assertMatch({idle, [{close, 'a@h', cut}, {tell_followers, down}, {report, {unreachable, _, no_answer}},
                         {backoff, 50}]}, seen(event(timeout, attaching()))).

a_gateway_that_is_lost_makes_way_for_the_next_test() ->
    [begin
         Actions = actions(event({lost, noconnection}, Link)),
         ?assert(lists:member({close, 'a@h', keep}, Actions)),
         ?assert(lists:member({connect, 'b@h'}, Actions)),
         ?assert(lists:member({tell_followers, down}, Actions)),
         %% What everybody relied on is worth a line; attempts are not.
         ?assertEqual(State =:= attached,
                      lists:member({report, {lost, 'a@h', noconnection}}, Actions))
     end || #link{state = State} = Link <- [attaching(['a@h', 'b@h']), restoring(['a@h', 'b@h']),
                                            attached(['a@h', 'b@h'])]].

%%% restoring

what_is_missing_is_registered_again_before_the_gateway_counts_test() ->
    Answered = event({answer, {attach, 1}, {ok, ?INFO}}, attaching()),
    Restoring = event({registry, 7, [{s, p(1)}, {s, p(2)}], false}, Answered),
    ?assertEqual({restoring, [{request, {reassert, s, p(1)}, {restored, 1, s, p(1)}},
                              {request, {reassert, s, p(2)}, {restored, 1, s, p(2)}},
                              {state_timeout, 1000}]}, seen(Restoring)),
    One = event({answer, {restored, 1, s, p(1)}, ok}, Restoring),
    ?assertEqual({restoring, [{repeated, s, p(1)}]}, seen(One)),
    ?assertMatch({attached, [{repeated, s, _}, {report, {attached, 'a@h', false}} | _]},
                 seen(event({answer, {restored, 1, s, p(2)}, ok}, One))).

followers_restore_before_the_gateway_counts_test() ->
    Follower = p(9),
    Following = event({follow, Follower}, idle(['a@h'])),
    ?assertEqual({idle, [{follow, Follower, down}]}, seen(Following)),
    Connected = event({connected, true}, event(start, Following)),
    Restoring = event({registry, 7, [], false},
                      event({answer, {attach, 1}, {ok, ?INFO}}, Connected)),
    ?assertEqual({restoring, [{state_timeout, 1000}]}, seen(Restoring)),
    ?assertEqual({restoring, []}, seen(event({relay_restored, 'other@h', Follower}, Restoring))),
    ?assertMatch({attached, _}, seen(event({relay_restored, 'a@h', Follower}, Restoring))),
    ?assertMatch({attached, _}, seen(event({follower_ended, Follower}, Restoring))).

who_follows_a_gateway_that_is_there_is_told_of_it_test() ->
    [?assertEqual({State, [{follow, p(9), {up, 'a@h'}}]}, seen(event({follow, p(9)}, Link)))
     || #link{state = State} = Link <- [attaching(), restoring(), attached()]].

what_is_repeated_before_the_registry_has_come_is_not_known_to_be_offered_test() ->
    Anew = event({left, 'x@h'}, restoring()),
    ?assertEqual({attaching, []}, seen(event({answer, {restored, 1, s, p(1)}, ok}, Anew))).

a_second_registry_while_attached_changes_no_state_test() ->
    ?assertEqual({attached, [{request, {reassert, s, p(1)}, {restored, 1, s, p(1)}}]},
                 seen(event({registry, 9, [{s, p(1)}], false}, attached()))).

what_takes_longer_than_a_second_continues_in_the_background_test() ->
    Attached = event(timeout, restoring()),
    ?assertMatch({attached, _}, seen(Attached)),
    ?assertEqual({attached, [{repeated, s, p(1)}]},
                 seen(event({answer, {restored, 1, s, p(1)}, ok}, Attached))).

a_registration_that_cannot_be_repeated_does_not_keep_the_gateway_test() ->
    Label = {restored, 1, s, p(1)},
    ?assertMatch({attached, [{gone, s, _} | _]},
                 seen(event({answer, Label, {error, unregistered}}, restoring()))),
    ?assertMatch({attached, [reassert_soon | _]},
                 seen(event({answer, Label, {error, disk_full}}, restoring()))),
    ?assertMatch({attached, [{report, _} | _]}, seen(event({no_answer, Label}, restoring()))).

%%% attached

a_gateway_that_serves_is_told_what_is_due_in_order_test() ->
    Carried = event({carry, register, s, p(1), none}, restoring()),
    ?assertEqual([{timer, {request, 1}, 5000}], actions(Carried)),
    Attached = event(timeout, event({await, gateway, 100, from(1)}, Carried)),
    ?assertEqual({attached,
                  [{report, {attached, 'a@h', false}}, {share, channels, #{c => #{}}},
                   send_secret, tell_events, send_withdrawals,
                   {request, {register, s, p(1)}, {carried, 1, register, s, p(1)}},
                   {share, mirror, ready}, {share, gateway, 'a@h'},
                   {cancel, {waiter, from(1)}}, {reply, from(1), {ok, 'a@h'}}]}, seen(Attached)).

after_a_warning_the_gateway_is_worth_a_notice_test() ->
    Warned = event(connect, event({connected, false}, connecting(['a@h']))),
    ?assert(lists:member({report, {attached, 'a@h', true}}, actions(serve(1, Warned)))).

changes_are_mirrored_and_a_gap_attaches_anew_test() ->
    Added = event({change, added, 8, s, p(1)}, attached()),
    ?assertEqual({attached, [{mirror, added, s, p(1)}]}, seen(Added)),
    ?assertEqual({attached, []}, seen(event({change, removed, 8, s, p(1)}, Added))),
    ?assertEqual({attaching, [{report, {missed, 9, 10}}, {cancel, settle}, {attach, 2},
                              {state_timeout, 10000}]},
                 seen(event({change, removed, 11, s, p(1)}, Added))).

a_gap_while_registrations_are_restored_attaches_anew_too_test() ->
    ?assertMatch({attaching, [{report, {missed, 8, 8}}, _, {attach, 2}, _]},
                 seen(event({change, added, 9, s, p(1)}, restoring()))).

changes_before_the_registry_are_not_heard_test() ->
    ?assertEqual({attaching, []}, seen(event({change, added, 8, s, p(1)}, attaching()))),
    ?assertEqual({idle, []}, seen(event({change, added, 8, s, p(1)}, idle([])))).

a_registry_with_unconfirmed_workers_settles_in_time_test() ->
    Link = event({registry, 7, [], true}, attaching()),
    ?assertEqual({attaching, [{timer, settle, 3000}]}, seen(Link)),
    ?assertEqual(other, ?CORE:source(Link#link.core)),
    Settled = event(settle, Link),
    ?assertEqual([settle], actions(Settled)),
    ?assertEqual(same, ?CORE:source(Settled#link.core)).

the_registry_of_the_next_gateway_is_another_one_test() ->
    #link{core = Core} = attached(),
    ?assertEqual(same, ?CORE:source(Core)),
    #link{core = Next} = event({connected, true}, event({lost, x}, attached(['a@h', 'b@h']))),
    ?assertEqual(other, ?CORE:source(Next)).

%%% A gateway on this host

a_gateway_on_this_host_is_gone_over_to_test() ->
    Home = own("g"),
    Looking = event({members, ['a@h', Home]}, attached()),
    ?assertEqual({attached, [{share, gateways, ['a@h', Home]}, {connect_home, Home}]}, seen(Looking)),
    ?assertEqual([], [A || {connect_home, _} = A <- actions(event({reassert, []}, Looking))]),
    ?assertEqual({connecting, [{report, {moving, 'a@h', Home}}, {report, {lost, 'a@h', moved}},
                               {close, 'a@h', keep}, {tell_followers, down}, {take_leave, 'a@h'},
                               cancel_backoff, {connect, Home}, {state_timeout, 1000}]},
                 seen(event({home_reached, true}, Looking))),
    Failed = event({home_reached, false}, Looking),
    ?assertEqual({attached, []}, seen(Failed)),
    ?assertMatch({attached, [send_withdrawals, {connect_home, Home}]},
                 seen(event({reassert, []}, Failed))).

a_gateway_on_this_host_that_is_no_member_any_more_is_not_gone_over_to_test() ->
    Looking = event({members, ['a@h', own("g")]}, attached()),
    Removed = event({members, ['a@h']}, Looking),
    ?assertEqual({attached, []}, seen(event({home_reached, true}, Removed))).

members_are_learnt_without_a_gateway_too_test() ->
    Known = event({members, ['b@h']}, attaching()),
    ?assertEqual({attaching, [{share, gateways, ['b@h']}]}, seen(Known)),
    ?assertMatch({connecting, [_, _, _, {connect, 'b@h'}, _]}, seen(event({lost, x}, Known))).

members_that_are_none_are_not_learnt_test() ->
    [?assertEqual({attached, []}, seen(event({members, Bad}, attached())))
     || Bad <- [[], [1, "x"], garbage, #{}, [a | b]]].

%%% Embedded gateways

the_embedded_gateway_is_connected_to_when_it_can_serve_test() ->
    ?assertMatch({connecting, [_, {connect, 'e@h'}, _]}, seen(event({embedded_up, 'e@h'}, embedded()))).

the_embedded_gateway_in_use_is_kept_test() ->
    Attached = embedded_attached(),
    ?assertEqual({attached, []}, seen(event({embedded_up, 'e@h'}, Attached))).

another_embedded_gateway_supersedes_it_test() ->
    ?assertMatch({connecting, [{report, {lost, 'e@h', superseded}}, {close, 'e@h', cut},
                               {tell_followers, down}, _, {connect, 'f@h'}, _]},
                 seen(event({embedded_up, 'f@h'}, embedded_attached()))).

one_that_supersedes_while_it_connects_is_connected_to_test() ->
    Connecting = event({embedded_up, 'e@h'}, embedded()),
    ?assertMatch({connecting, [{close, 'e@h', cut}, _, {connect, 'f@h'}, _]},
                 seen(event({embedded_up, 'f@h'}, Connecting))).

without_the_embedded_gateway_the_link_is_idle_test() ->
    Down = event(embedded_down, embedded_attached()),
    ?assertEqual({idle, [{report, {lost, 'e@h', embedded_down}}, {close, 'e@h', cut},
                         {tell_followers, down}, cancel_backoff]}, seen(Down)),
    ?assertEqual({idle, []}, seen(event(connect, Down))),
    ?assertEqual({idle, [cancel_backoff]}, seen(event(embedded_down, Down))).

the_choice_of_embedded_gateways_is_told_of_a_loss_test() ->
    ?assertMatch({idle, [{gateway_lost, 'e@h'}, {report, _}, {close, 'e@h', keep} | _]},
                 seen(event({lost, noconnection}, embedded_attached()))).

a_link_to_named_gateways_heeds_no_embedded_one_test() ->
    [?assertEqual({attached, []}, seen(event(Event, attached())))
     || Event <- [{embedded_up, 'e@h'}, embedded_down]].

%%% Departed gateways

a_departed_gateway_that_shows_up_again_is_left_and_then_the_session_is_attached_anew_test() ->
    Second = serve(2, event({lost, noconnection}, attached(['a@h', 'b@h']))),
    ?assertEqual({attached, [{take_leave, 'a@h'}]}, seen(event({node_up, 'a@h'}, Second))),
    Left = event({left, 'a@h'}, Second),
    ?assertEqual({attaching, [{cancel, settle}, {attach, 3}, {state_timeout, 10000}]}, seen(Left)),
    ?assertEqual({attaching, []}, seen(event({node_up, 'a@h'}, Left))).

nobody_else_is_left_test() ->
    [?assertEqual({attached, []}, seen(event({node_up, Node}, attached())))
     || Node <- ['a@h', 'stranger@h']].

while_nothing_is_connected_leaving_changes_nothing_test() ->
    ?assertEqual({idle, []}, seen(event({left, 'a@h'}, idle([])))).

%%% Registrations

a_registration_is_carried_answered_and_remembered_test() ->
    Carried = event({carry, register, s, p(1), from(1)}, attached()),
    Label = {carried, 1, register, s, p(1)},
    ?assertEqual([{timer, {request, 1}, 5000}, {request, {register, s, p(1)}, Label}],
                 actions(Carried)),
    ?assertEqual([{cancel, {request, 1}}, {registered, s, p(1)}, {reply, from(1), ok}],
                 actions(event({answer, Label, ok}, Carried))),
    ?assertEqual([{cancel, {request, 1}}, {reply, from(1), {error, disk_full}}],
                 actions(event({answer, Label, {error, disk_full}}, Carried))).

one_that_is_answered_while_the_session_is_attached_anew_is_offered_here_test() ->
    Carried = event({carry, register, s, p(1), from(1)}, attached()),
    Anew = event({left, 'x@h'}, Carried),
    ?assertEqual([{cancel, {request, 1}}, {registered, s, p(1)}, {offered, s, p(1)},
                  {reply, from(1), ok}],
                 actions(event({answer, {carried, 1, register, s, p(1)}, ok}, Anew))).

one_that_was_lost_with_its_gateway_is_sent_to_the_next_test() ->
    Carried = event({carry, register, s, p(1), from(1)}, attached(['a@h', 'b@h'])),
    Next = serve(2, event({lost, noconnection}, Carried)),
    ?assert(lists:member({request, {register, s, p(1)}, {carried, 1, register, s, p(1)}},
                         actions(Next))).

a_registration_that_nobody_takes_fails_in_time_test() ->
    Carried = event({carry, register, s, p(1), from(1)}, idle([])),
    ?assertEqual([{timer, {request, 1}, 5000}], actions(Carried)),
    Expired = event({expire, {request, 1}}, Carried),
    ?assertEqual({idle, [{reply, from(1), {error, no_gateway}}]}, seen(Expired)),
    ?assertEqual({idle, []}, seen(event({expire, {request, 1}}, Expired))).

a_registration_that_is_taken_too_late_is_undone_test() ->
    Expired = event({expire, {request, 1}},
                    event({carry, register, s, p(1), from(1)}, attached())),
    ?assertEqual([{undo, s, p(1)}],
                 actions(event({answer, {carried, 1, register, s, p(1)}, ok}, Expired))),
    ?assertEqual([], actions(event({answer, {carried, 1, register, s, p(1)}, {error, x}}, Expired))).

it_is_not_undone_while_another_one_of_the_pair_may_succeed_test() ->
    First = event({carry, register, s, p(1), from(1)}, attached()),
    Second = event({carry, register, s, p(1), from(2)}, event({expire, {request, 1}}, First)),
    Late = event({answer, {carried, 1, register, s, p(1)}, ok}, Second),
    ?assertEqual([], actions(Late)),
    ?assertMatch([_, {registered, s, _}, {reply, _, ok}, {undo, s, _}],
                 actions(event({answer, {carried, 2, register, s, p(1)}, ok}, Late))).

an_unregistration_without_a_gateway_is_remembered_test() ->
    [?assertEqual([{withdraw, s, p(1), from(1)}],
                  actions(event({carry, unregister, s, p(1), from(1)}, Link)))
     || Link <- [idle([]), connecting(['a@h']), attaching(), restoring()]].

an_unregistration_that_is_lost_with_its_gateway_is_remembered_test() ->
    Carried = event({carry, unregister, s, p(1), from(1)}, attached()),
    ?assertEqual([{timer, {request, 1}, 5000},
                  {request, {unregister, s, p(1)}, {carried, 1, unregister, s, p(1)}}],
                 actions(Carried)),
    ?assertEqual([{cancel, {request, 1}}, {unregistered, s, p(1)}, {reply, from(1), ok}],
                 actions(event({answer, {carried, 1, unregister, s, p(1)}, ok}, Carried))),
    Lost = actions(event({lost, noconnection}, Carried)),
    ?assert(lists:member({withdraw, s, p(1), from(1)}, Lost)),
    ?assert(lists:member({cancel, {request, 1}}, Lost)).

the_gateway_is_told_of_withdrawals_until_it_takes_them_test() ->
    Label = {withdrawn, s, p(1)},
    ?assertEqual([{withdrawn, s, p(1)}], actions(event({answer, Label, ok}, attached()))),
    ?assertEqual([reassert_soon], actions(event({answer, Label, {error, disk_full}}, attached()))),
    ?assertEqual([], actions(event({no_answer, Label}, attached()))).

an_asserted_registration_is_sent_where_there_is_a_session_test() ->
    Request = {request, {register, s, p(1)}, {restored, none, s, p(1)}},
    [?assertEqual([{asserted, s, p(1)}], actions(event({assert, s, p(1)}, Link)))
     || Link <- [idle([]), connecting(['a@h']), attaching()]],
    [?assertEqual([{asserted, s, p(1)}, Request], actions(event({assert, s, p(1)}, Link)))
     || Link <- [restoring(), attached()]].

what_is_missing_is_reasserted_while_attached_only_test() ->
    ?assertEqual([send_withdrawals, {request, {reassert, s, p(1)}, {restored, none, s, p(1)}}],
                 actions(event({reassert, [{s, p(1)}]}, attached()))),
    [?assertEqual([], actions(event({reassert, [{s, p(1)}]}, Link)))
     || Link <- [idle([]), connecting(['a@h']), attaching(), restoring()]].

%%% Callers that wait

who_waits_is_answered_when_there_is_a_gateway_test() ->
    Waiting = lists:foldl(fun({What, N}, Acc) -> event({await, What, 100, from(N)}, Acc) end,
                          attaching(), [{mirror, 1}, {gateway, 2}, {start, 3}]),
    ?assertEqual([{timer, {waiter, from(3)}, 100}], actions(Waiting)),
    Attached = event({registry, 7, [], false},
                     event({answer, {attach, 1}, {ok, ?INFO}}, Waiting)),
    ?assertEqual([{from(1), ok}, {from(2), {ok, 'a@h'}}, {from(3), ok}],
                 lists:sort([{From, Answer} || {reply, From, Answer} <- actions(Attached)])).

who_has_waited_long_enough_is_told_so_once_test() ->
    Waiting = event({await, gateway, 100, from(1)}, idle([])),
    Expired = event({expire, {waiter, from(1)}}, Waiting),
    ?assertEqual([{cancel, {waiter, from(1)}}, {reply, from(1), {error, no_gateway}}],
                 actions(Expired)),
    ?assertEqual([], actions(event({expire, {waiter, from(1)}}, Expired))).

who_starts_the_application_waits_until_each_gateway_was_tried_test() ->
    Waiting = event({await, start, 100, from(1)},
                    event({await, mirror, 100, from(2)}, connecting(['a@h']))),
    Tried = event({connected, false}, Waiting),
    ?assertEqual([{from(1), {error, no_gateway}}],
                 [{From, Answer} || {reply, From, Answer} <- actions(Tried)]),
    ?assertEqual([{reply, from(3), {error, no_gateway}}],
                 actions(event({await, start, 100, from(3)}, Tried))).

without_a_program_nobody_waits_for_the_start_test() ->
    Out = event(out_of_reach, event({await, start, 100, from(1)}, embedded())),
    ?assertEqual({idle, [{cancel, {waiter, from(1)}}, {reply, from(1), {error, no_gateway}}]},
                 seen(Out)).

who_asked_for_something_to_be_told_is_answered_either_way_test() ->
    ?assertEqual([{reply, from(1), ok}], actions(event({no_answer, {told, from(1)}}, attached()))),
    ?assertEqual([], actions(event({no_answer, {told, none}}, attached()))),
    ?assertEqual([{reply, from(1), ok}], actions(event({answer, {told, from(1)}, ok}, attached()))),
    ?assertEqual([], actions(event({answer, ignored, ok}, attached()))).

people_are_told_of_state_gateway_and_revision_test() ->
    #link{core = Core} = attached(),
    ?assertMatch(#{phase := attached, gateway := 'a@h', gateways := ['a@h'], rev := 7, followers := 0,
                   pending := 0}, ?CORE:status(attached, Core)),
    ?assertEqual('a@h', ?CORE:gateway(Core)).

%%% Helpers

event(Event, #link{state = State, core = Core}) ->
    {Next, Actions, Decided} = ?CORE:handle(State, Event, Core),
    case Next of
        keep ->
            #link{state = State, core = Decided, actions = Actions};
        {enter, Entered} ->
            {More, Done} = ?CORE:enter(Entered, Decided),
            #link{state = Entered, core = Done, actions = Actions ++ More}
    end.

seen(#link{state = State, actions = Actions}) -> {State, Actions}.

actions(#link{actions = Actions}) -> Actions.

idle(Gateways) -> #link{core = ?CORE:new(#{mode => named, gateways => Gateways})}.

embedded() -> #link{core = ?CORE:new(#{mode => embedded})}.

embedded_attached() -> serve(1, event({embedded_up, 'e@h'}, embedded())).

connecting(Gateways) -> event(start, idle(Gateways)).

attaching() -> attaching(['a@h']).
attaching(Gateways) -> event({connected, true}, connecting(Gateways)).

%% One registration is not repeated yet.
restoring() -> restoring(['a@h']).
restoring(Gateways) ->
    #link{state = restoring} =
        event({registry, 7, [{s, p(1)}], false},
              event({answer, {attach, 1}, {ok, ?INFO}}, attaching(Gateways))).

attached() -> attached(['a@h']).
attached(Gateways) -> serve(1, connecting(Gateways)).

serve(Attempt, Connecting) ->
    #link{state = attached} =
        event({registry, 7, [], false},
              event({answer, {attach, Attempt}, {ok, ?INFO}}, event({connected, true}, Connecting))).

p(N) -> list_to_pid("<0." ++ integer_to_list(N) ++ ".0>").

from(N) -> {p(N), tag}.

own(Name) ->
    [_, Host] = string:split(atom_to_list(node()), "@"),
    list_to_atom(Name ++ "@" ++ Host).
