-module(esdb_gater_subscriptions_tests).

-include_lib("eunit/include/eunit.hrl").

-define(SUBS, esdb_gater_subscriptions).
-define(T, <<"topic">>).

%%% Without a gateway

a_caller_waits_for_a_gateway_and_is_answered_when_it_holds_test() ->
    Waiting = event({subscribe, ?T, a(), none, from(1), false}, new()),
    ?assertEqual([{await, shared(), from(1), 5000}], actions(Waiting)),
    Up = event({up, 'g@h'}, Waiting),
    ?assertEqual([{request, {keep, ?T, relay(), relay(), 0}, {subscribed, shared()}}], actions(Up)),
    Held = event({answer, {subscribed, shared()}, {ok, 7, false}}, Up),
    ?assertEqual([{keep, ?T, a(), 7, none}, {topic_changed, relay(), ?T, true},
                  {local_changed, ?T, #{a() => 7}}, {watch, a(), shared()}, {cancel, from(1)},
                  {reply, from(1), ok}, {restored, 'g@h'}], actions(Held)),
    ?assertEqual(#{a() => 7}, recipients(Held)).

who_has_waited_long_enough_is_told_so_and_nothing_is_left_test() ->
    Waiting = event({subscribe, ?T, a(), none, from(1), false}, new()),
    Expired = event({expire, shared(), from(1)}, Waiting),
    ?assertEqual([{reply, from(1), {error, no_gateway}}], actions(Expired)),
    ?assertEqual([], actions(event({expire, shared(), from(1)}, Expired))),
    ?assertEqual([{restored, 'g@h'}], actions(event({up, 'g@h'}, Expired))).

where_no_gateway_is_to_be_expected_nobody_waits_test() ->
    Refused = event({subscribe, ?T, a(), none, from(1), true}, new()),
    ?assertEqual([{reply, from(1), {error, no_gateway}}], actions(Refused)),
    ?assertEqual(element(1, new()), element(1, Refused)).

who_does_not_wait_is_subscribed_at_once_test() ->
    Cast = event({subscribe, ?T, a()}, new()),
    ?assertEqual([{keep, ?T, a(), 0, none}, {topic_changed, relay(), ?T, true},
                  {local_changed, ?T, #{a() => 0}}, {watch, a(), shared()}], actions(Cast)),
    Dated = event({answer, {subscribed, shared()}, {ok, 7, false}}, event({up, 'g@h'}, Cast)),
    ?assertMatch([{keep, ?T, _, 7, none} | _], actions(Dated)).

subscribers_that_were_kept_over_a_crash_are_asked_for_again_test() ->
    {Actions, State} = ?SUBS:new(relay(), [{?T, a(), 3, none}, {?T, b(), 5, <<"token">>}]),
    ?assertEqual([a(), b()], [Pid || {watch, Pid, _} <- Actions]),
    Up = event({up, 'g@h'}, {State, []}),
    ?assertEqual([{request, {keep, ?T, relay(), relay(), 5}, {subscribed, shared()}},
                  {request, {keep, ?T, b(), relay(), 5, <<"token">>}, {subscribed, {?T, b()}}}],
                 lists:sort(actions(Up))).

%%% With one

the_second_process_of_a_topic_needs_no_gateway_test() ->
    Second = event({subscribe, ?T, b(), none, from(2), false}, held()),
    ?assertEqual([{keep, ?T, b(), 7, none}, {topic_changed, relay(), ?T, true},
                  {local_changed, ?T, #{a() => 7, b() => 7}}, {tell, {weigh, ?T, relay(), 2}},
                  {watch, b(), shared()}, {reply, from(2), ok}], actions(Second)).

subscribing_twice_is_one_subscription_test() ->
    Again = event({subscribe, ?T, a(), none, from(2), false}, held()),
    ?assertEqual([{reply, from(2), ok}], [A || {reply, _, _} = A <- actions(Again)]),
    ?assertEqual([], [A || {local_changed, _, _} = A <- actions(Again)]),
    ?assertEqual(#{a() => 7}, recipients(Again)).

the_last_message_is_replayed_to_those_who_come_later_test() ->
    {State, _} = held(true),
    Replaying = {?SUBS:remember(?T, last, State), []},
    ?assertEqual([{replay, b(), ?T, last}],
                 [A || {replay, _, _, _} = A <- actions(event({subscribe, ?T, b(), none, from(2), false},
                                                              Replaying))]),
    %% Not to one that has had it.
    ?assertEqual([], [A || {replay, _, _, _} = A <- actions(event({subscribe, ?T, a(), none, from(2), false},
                                                                  Replaying))]),
    {Plain, _} = held(false),
    ?assertEqual(Plain, ?SUBS:remember(?T, last, Plain)).

a_process_elsewhere_is_subscribed_under_its_own_pid_test() ->
    Key = {?T, far()},
    Asked = event({subscribe, ?T, far(), none, from(1), false}, up()),
    ?assertEqual([{await, Key, from(1), 5000},
                  {request, {keep, ?T, far(), relay(), 0}, {subscribed, Key}}],
                 actions(Asked)),
    Held = event({answer, {subscribed, Key}, {ok, 7, false}}, Asked),
    ?assertEqual(#{}, recipients(Held)),
    Ended = event({unsubscribe, ?T, far(), from(2)}, Held),
    ?assertEqual([{forget, ?T, far()}, {topic_changed, far(), ?T, false}, {unwatch, far(), Key},
                  {request, {unsubscribe, ?T, far()}, {ended, Key, 1}}], actions(Ended)),
    ?assertEqual([{reply, from(2), ok}], actions(event({answer, {ended, Key, 1}, {ok, 8, false}}, Ended))).

the_last_that_leaves_ends_the_subscription_at_the_gateway_test() ->
    Left = event({unsubscribe, ?T, a(), from(2)}, held()),
    ?assertEqual([{forget, ?T, a()}, {topic_changed, relay(), ?T, false}, {local_changed, ?T, #{}},
                  {request, {leave, ?T, relay(), relay()}, {ended, shared()}}, {unwatch, a(), shared()},
                  {request, {leave, ?T, a(), relay()}, {ended, {?T, a()}, 1}}], actions(Left)),
    ?assertEqual([{reply, from(2), ok}],
                 actions(event({answer, {ended, {?T, a()}, 1}, {ok, 8, false}}, Left))).

one_of_two_that_leaves_is_told_to_the_gateway_as_a_weight_test() ->
    Two = event({subscribe, ?T, b(), none, from(2), false}, held()),
    Gone = event({gone, [shared()], b()}, Two),
    ?assertEqual([{forget, ?T, b()}, {local_changed, ?T, #{a() => 7}}, {tell, {weigh, ?T, relay(), 1}}],
                 actions(Gone)).

a_process_that_ends_ends_its_subscription_test() ->
    Gone = event({gone, [shared()], a()}, held()),
    ?assert(lists:member({request, {leave, ?T, relay(), relay()}, {ended, shared()}}, actions(Gone))),
    ?assertEqual(#{}, recipients(Gone)).

%%% What the gateway says

a_subscription_that_somebody_else_has_ended_is_over_unless_it_is_newer_test() ->
    ?assertEqual([], actions(event({ended, ?T, a(), 7}, held()))),
    Ended = event({ended, ?T, a(), 8}, held()),
    ?assertEqual(#{}, recipients(Ended)),
    ?assert(lists:member({unwatch, a(), shared()}, actions(Ended))).

an_ending_that_crosses_a_request_does_not_count_test() ->
    Asked = event({subscribe, ?T, a(), none, from(1), false}, up()),
    ?assertEqual([{request, {keep, ?T, relay(), relay(), 0}, {subscribed, shared()}}],
                 actions(event({answer, {subscribed, shared()}, {error, ended}}, Asked))).

a_subscription_elsewhere_that_was_ended_while_the_relay_was_away_is_dropped_test() ->
    Key = {?T, far()},
    Held = event({answer, {subscribed, Key}, {ok, 7, false}},
                 event({subscribe, ?T, far(), none, from(1), false}, up())),
    Again = event({up, 'h@h'}, event(down, Held)),
    ?assertEqual([{request, {keep, ?T, far(), relay(), 7}, {subscribed, Key}}], actions(Again)),
    Dropped = event({answer, {subscribed, Key}, {error, ended}}, Again),
    ?assertEqual([{forget, ?T, far()}, {topic_changed, far(), ?T, false}, {restored, 'h@h'},
                  {unwatch, far(), Key}], actions(Dropped)).

a_refusal_is_told_and_forgotten_test() ->
    Asked = event({subscribe, ?T, a(), none, from(1), false}, up()),
    Refused = event({answer, {subscribed, shared()}, {error, overloaded}}, Asked),
    ?assertEqual([{cancel, from(1)}, {reply, from(1), {error, overloaded}}], actions(Refused)),
    ?assertEqual([{restored, 'h@h'}], actions(event({up, 'h@h'}, event(down, Refused)))).

what_is_refused_to_those_who_do_not_wait_is_asked_for_again_test() ->
    Asked = event({subscribe, ?T, a()}, up()),
    Refused = event({answer, {subscribed, shared()}, {error, overloaded}}, Asked),
    ?assertEqual([retry_later], actions(Refused)),
    ?assertMatch([{request, {keep, ?T, _, _, _}, _}], actions(event(retry, Refused))).

%%% Tokens

a_token_gives_a_process_a_subscription_of_its_own_test() ->
    {Actions, Held} = with_token(<<"one">>),
    ?assert(lists:member({request, {keep, ?T, a(), relay(), 0, <<"one">>}, {subscribed, own()}}, Actions)),
    ?assertEqual(#{}, recipients(Held)),
    ?assert(lists:member({keep, ?T, a(), 7, <<"one">>}, actions(Held))).

a_new_token_is_judged_and_the_old_one_stays_if_it_is_refused_test() ->
    {_, Held} = with_token(<<"one">>),
    Asked = event({subscribe, ?T, a(), <<"two">>, from(2), false}, Held),
    Refused = event({answer, {subscribed, own()}, {error, {unauthorized, expired}}}, Asked),
    ?assertEqual([{cancel, from(2)}, {reply, from(2), {error, {unauthorized, expired}}}],
                 actions(Refused)),
    Again = event({up, 'h@h'}, event(down, Refused)),
    ?assertEqual([{request, {keep, ?T, a(), relay(), 7, <<"one">>}, {subscribed, own()}}], actions(Again)).

a_token_that_the_next_gateway_refuses_ends_the_subscription_with_a_warning_test() ->
    {_, Held} = with_token(<<"one">>),
    Again = event({up, 'h@h'}, event(down, Held)),
    Refused = event({answer, {subscribed, own()}, {error, {unauthorized, expired}}}, Again),
    ?assertMatch([{not_restored, _, expired}, {forget, ?T, _} | _], actions(Refused)).

who_holds_without_a_token_needs_none_test() ->
    ?assertEqual([{reply, from(2), ok}],
                 actions(event({subscribe, ?T, a(), <<"token">>, from(2), false}, held()))).

who_waits_without_a_token_is_moved_to_a_subscription_of_its_own_test() ->
    Waiting = event({subscribe, ?T, a()}, new()),
    Moved = event({subscribe, ?T, a(), <<"token">>, from(2), false}, Waiting),
    ?assert(lists:member({unwatch, a(), shared()}, actions(Moved))),
    ?assert(lists:member({await, own(), from(2), 5000}, actions(Moved))),
    ?assertEqual(#{}, recipients(Moved)).

%%% Gateways come and go

all_is_asked_for_at_the_next_gateway_and_the_link_told_when_it_is_there_test() ->
    Down = event(down, held()),
    ?assertEqual([], actions(Down)),
    Up = event({up, 'h@h'}, Down),
    ?assertEqual([{request, {keep, ?T, relay(), relay(), 7}, {subscribed, shared()}}], actions(Up)),
    ?assertMatch([{restored, 'h@h'}],
                 [A || {restored, _} = A <- actions(event({answer, {subscribed, shared()}, {ok, 9, false}}, Up))]).

what_is_given_up_without_a_gateway_is_ended_at_the_next_test() ->
    Down = event({gone, [shared()], a()}, event(down, held())),
    ?assertEqual([{request, {leave, ?T, relay(), relay()}, {ended, shared()}}, {restored, 'h@h'}],
                 actions(event({up, 'h@h'}, Down))).

who_waits_for_an_end_is_answered_when_the_gateway_is_lost_test() ->
    Ending = event({unsubscribe, ?T, a(), from(2)}, held()),
    ?assertEqual([{reply, from(2), ok}], actions(event(down, Ending))),
    ?assertEqual([{reply, from(2), ok}], actions(event({no_answer, {ended, {?T, a()}, 1}}, Ending))).

an_end_elsewhere_without_a_gateway_is_remembered_up_to_a_bound_test() ->
    Ended = event({unsubscribe, ?T, far(), from(1)}, new()),
    ?assertEqual({reply, from(1), ok}, lists:last(actions(Ended))),
    ?assert(lists:member({request, {unsubscribe, ?T, far()}, {ended, {?T, far()}}},
                         actions(event({up, 'g@h'}, Ended)))),
    Full = lists:foldl(fun(I, Acc) ->
                           event({unsubscribe, integer_to_binary(I), far(), none}, Acc)
                       end, Ended, lists:seq(1, 10000)),
    ?assertEqual({reply, from(2), {error, no_gateway}},
                 lists:last(actions(event({unsubscribe, <<"more">>, far(), from(2)}, Full)))).

an_end_that_was_lost_with_its_gateway_is_told_to_the_next_test() ->
    Gone = event({gone, [shared()], a()}, held()),
    Lost = event(down, event({no_answer, {ended, shared()}}, Gone)),
    ?assert(lists:member({request, {leave, ?T, relay(), relay()}, {ended, shared()}},
                         actions(event({up, 'h@h'}, Lost)))).

an_answer_to_what_was_given_up_changes_nothing_test() ->
    {Gone, _} = event({gone, [shared()], a()}, held()),
    [?assertEqual({Gone, []}, event(Event, {Gone, []}))
     || Event <- [{answer, {subscribed, shared()}, {ok, 7, false}}, {no_answer, {subscribed, shared()}},
                  {answer, {ended, shared()}, {error, overloaded}}, retry]].

a_subscription_elsewhere_that_somebody_else_has_ended_is_over_test() ->
    Key = {?T, far()},
    Held = event({answer, {subscribed, Key}, {ok, 7, false}},
                 event({subscribe, ?T, far(), none, from(1), false}, up())),
    ?assertEqual([{forget, ?T, far()}, {topic_changed, far(), ?T, false}, {unwatch, far(), Key}],
                 actions(event({ended, ?T, far(), 8}, Held))).

who_waits_for_a_subscription_elsewhere_goes_on_waiting_when_it_is_unsubscribed_test() ->
    Key = {?T, far()},
    Waiting = event({subscribe, ?T, far(), none, from(1), false}, up()),
    Ended = event({unsubscribe, ?T, far(), none}, Waiting),
    ?assertEqual({reply, from(1), ok},
                 lists:last(actions(event({answer, {subscribed, Key}, {ok, 9, false}}, Ended)))).

a_process_with_a_token_is_found_by_its_own_subscription_test() ->
    {_, Held} = with_token(<<"one">>),
    Left = event({unsubscribe, ?T, a(), from(2)}, Held),
    ?assert(lists:member({unwatch, a(), own()}, actions(Left))),
    ?assert(lists:member({request, {leave, ?T, a(), relay()}, {ended, own()}}, actions(Left))).

who_is_not_subscribed_is_unsubscribed_at_the_gateway_all_the_same_test() ->
    ?assertEqual([{forget, ?T, a()}, {unwatch, a(), shared()},
                  {request, {leave, ?T, a(), relay()}, {ended, {?T, a()}, 1}}],
                 actions(event({unsubscribe, ?T, a(), from(1)}, up()))).

the_gateway_in_use_is_known_test() ->
    {Up, _} = up(),
    {Down, _} = event(down, up()),
    ?assertEqual({'g@h', undefined}, {?SUBS:gateway(Up), ?SUBS:gateway(Down)}).

a_former_gateway_is_told_to_forget_test() ->
    ?assertEqual([{tell, 'g@h', {forget, ?T, relay(), relay()}}],
                 actions(event({former, 'g@h'}, held()))).

a_request_that_was_lost_with_its_gateway_is_made_again_test() ->
    Asked = event({subscribe, ?T, a(), none, from(1), false}, up()),
    Lost = event({no_answer, {subscribed, shared()}}, Asked),
    ?assertMatch([{request, {keep, ?T, _, _, _}, _}], actions(event({up, 'h@h'}, Lost))).

topics_that_come_and_go_leave_nothing_test() ->
    {State, _} = lists:foldl(fun(I, Acc) ->
        Topic = integer_to_binary(I),
        Held = event({answer, {subscribed, {Topic, relay()}}, {ok, 1, false}},
                     event({subscribe, Topic, a(), none, from(I), false}, Acc)),
        Left = event({unsubscribe, Topic, a(), none}, Held),
        event({answer, {ended, {Topic, relay()}}, {ok, 1, false}}, Left)
    end, up(), lists:seq(1, 1000)),
    {Fresh, _} = event({answer, {ended, shared()}, {ok, 1, false}}, up()),
    ?assertEqual(Fresh, State).

%%% Helpers

new() -> {_, State} = ?SUBS:new(relay(), []), {State, []}.

up() -> event({up, 'g@h'}, new()).

held() -> held(false).

held(Replays) ->
    event({answer, {subscribed, shared()}, {ok, 7, Replays}},
          event({subscribe, ?T, a(), none, from(1), false}, up())).

with_token(Token) ->
    Asked = event({subscribe, ?T, a(), Token, from(1), false}, up()),
    {actions(Asked), event({answer, {subscribed, own()}, {ok, 7, false}}, Asked)}.

event(Event, {State, _}) ->
    {Actions, Next} = ?SUBS:handle(Event, State),
    {Next, Actions}.

actions({_, Actions}) -> Actions.

recipients({State, _}) -> ?SUBS:recipients(?T, State).

relay() -> p(1).
a() -> p(2).
b() -> p(3).

%% Of another node.
far() ->
    binary_to_term(<<131, 88, 119, 5, "far@h", 9:32, 0:32, 1:32>>).

shared() -> {?T, relay()}.
own() -> {?T, a()}.

p(N) -> list_to_pid("<0." ++ integer_to_list(N) ++ ".0>").

from(N) -> {p(100), N}.
