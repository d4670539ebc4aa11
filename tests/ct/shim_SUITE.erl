%% @doc The shim with a running gateway: every function of the API, from two nodes.
-module(shim_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, groups/0, suite/0, init_per_suite/1, end_per_suite/1, init_per_group/2,
         end_per_group/2]).
-export([a_registration_is_seen_at_once_by_its_caller_and_soon_by_all/1,
         registering_twice_is_one_entry/1, what_is_no_worker_is_refused/1,
         workers_come_in_registration_order/1, a_dead_worker_disappears_everywhere/1,
         workers_without_a_shim_are_seen/1, a_missed_change_is_healed/1,
         the_registry_can_be_called_by_its_name_here/1,
         turns_are_exactly_even_over_two_nodes/1, results_come_in_their_shapes/1,
         a_worker_that_dies_half_way_is_replaced/1, the_failed_worker_is_not_chosen_again/1,
         no_worker_is_retried_and_reported/1, a_worker_that_comes_in_time_is_used/1,
         an_error_is_the_callers_bug/1, local_workers_are_preferred_when_asked/1,
         a_lost_node_is_node_down/1, a_cast_runs_once_and_does_not_wait/1,
         a_changed_secret_reaches_the_gateway/1, without_the_application_there_is_no_gateway/1]).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [{group, otp25}, {group, otp27}, {group, otp29}].

groups() ->
    Cases =
        [a_registration_is_seen_at_once_by_its_caller_and_soon_by_all,
         registering_twice_is_one_entry, what_is_no_worker_is_refused,
         workers_come_in_registration_order, a_dead_worker_disappears_everywhere,
         workers_without_a_shim_are_seen, the_registry_can_be_called_by_its_name_here,
         a_missed_change_is_healed, turns_are_exactly_even_over_two_nodes, results_come_in_their_shapes,
         a_worker_that_dies_half_way_is_replaced, the_failed_worker_is_not_chosen_again,
         no_worker_is_retried_and_reported, a_worker_that_comes_in_time_is_used,
         an_error_is_the_callers_bug, local_workers_are_preferred_when_asked,
         a_lost_node_is_node_down, a_cast_runs_once_and_does_not_wait,
         a_changed_secret_reaches_the_gateway, without_the_application_there_is_no_gateway],
    [{Release, Cases} || Release <- [otp25, otp27, otp29]].

init_per_suite(Config) -> Config.

end_per_suite(_Config) -> ok.

init_per_group(Group, Config) ->
    case gater_harness:on_release(Group, Config) of
        {skip, _} = Skip ->
            Skip;
        Chosen ->
            Release = #{otp => value(otp, Chosen)},
            World = gater_harness:new(),
            Gateway = gater_harness:gateway(World, #{env => [{"ESDB_GATER_SECRET", "first"}]}),
            [A, B] = [gater_shim:node(World, [?MODULE], Release) || _ <- [1, 2]],
            [ok = gater_shim:start(Beam, gater_shim:named([Gateway])) || Beam <- [A, B]],
            [{world, World}, {gateway, Gateway}, {a, A}, {b, B} | Chosen]
    end.

end_per_group(_Group, Config) ->
    gater_harness:stop(value(world, Config)).

%%% The registry

a_registration_is_seen_at_once_by_its_caller_and_soon_by_all(Config) ->
    {A, B} = both(Config),
    {Pid, {ok, Seen}} = on(A, fun() ->
        Pid = spawn(fun gater_shim:echo/0),
        ok = esdb_gater_api:register_worker(visible, Pid),
        {Pid, esdb_gater_api:get_workers(visible)}
    end),
    ?assertEqual([{node(Pid), Pid}], Seen),
    until(fun() -> on(B, fun() -> esdb_gater_api:get_workers(visible) end) =:= {ok, Seen} end),
    ?assertEqual([Pid], on(A, fun() -> esdb_gater_api:get_local_workers(visible) end)),
    ?assertEqual([], on(B, fun() -> esdb_gater_api:get_local_workers(visible) end)).

registering_twice_is_one_entry(Config) ->
    {A, _} = both(Config),
    [Pid] = gater_shim:workers(A, twice, 1),
    on(A, fun() ->
        ok = esdb_gater_api:register_worker(twice, Pid),
        {ok, [{_, Pid}]} = esdb_gater_api:get_workers(twice),
        ok = esdb_gater_api:unregister_worker(twice, Pid),
        {ok, []} = esdb_gater_api:get_workers(twice),
        ok = esdb_gater_api:unregister_worker(twice, Pid)
    end).

what_is_no_worker_is_refused(Config) ->
    {A, _} = both(Config),
    on(A, fun() ->
        {Dead, Monitor} = spawn_monitor(fun() -> ok end),
        receive {'DOWN', Monitor, _, _, _} -> ok end,
        {error, noproc} = esdb_gater_api:register_worker(bad, Dead),
        {error, badarg} = esdb_gater_api:register_worker(bad, not_a_pid),
        {error, badarg} = esdb_gater_api:register_worker(<<"bad">>, self()),
        {error, badarg} = esdb_gater_api:unregister_worker(bad, not_a_pid),
        {ok, []} = esdb_gater_api:get_workers(bad),
        {ok, []} = esdb_gater_api:get_workers(nobody_knows),
        [] = esdb_gater_api:get_local_workers(nobody_knows)
    end).

workers_come_in_registration_order(Config) ->
    {A, B} = both(Config),
    Pids = lists:append([gater_shim:workers(Beam, ordered, 1) || Beam <- [A, B, A, B, B, A]]),
    Expected = {ok, [{node(Pid), Pid} || Pid <- Pids]},
    [until(fun() -> on(Beam, fun() -> esdb_gater_api:get_workers(ordered) end) =:= Expected end)
     || Beam <- [A, B]].

a_dead_worker_disappears_everywhere(Config) ->
    {A, B} = both(Config),
    [Dies, Stays] = gater_shim:workers(A, mortal, 2),
    until(fun() -> on(B, fun() -> {ok, Ws} = esdb_gater_api:get_workers(mortal), length(Ws) end) =:= 2 end),
    on(A, fun() -> exit(Dies, kill) end),
    [until(fun() ->
               on(Beam, fun() -> esdb_gater_api:get_workers(mortal) end)
                   =:= {ok, [{node(Stays), Stays}]}
           end) || Beam <- [A, B]].

workers_without_a_shim_are_seen(Config) ->
    {A, _} = both(Config),
    #{node := Gateway} = value(gateway, Config),
    Plain = gater_harness:node(value(world, Config), #{modules => [?MODULE]}),
    {_, Pid} = gater_harness:agent(Plain),
    ok = on(Plain, fun() ->
        gen_server:call({esdb_gater_worker_registry, Gateway}, {register, plain, Pid})
    end),
    until(fun() -> on(A, fun() -> esdb_gater_api:get_workers(plain) end)
                       =:= {ok, [{node(Pid), Pid}]} end),
    gater_harness:kill_node(value(world, Config), Plain),
    until(fun() -> on(A, fun() -> esdb_gater_api:get_workers(plain) end) =:= {ok, []} end).

the_registry_can_be_called_by_its_name_here(Config) ->
    {A, _} = both(Config),
    on(A, fun() ->
        Registry = esdb_gater_worker_registry,
        ok = gen_server:call(Registry, {register, by_name, self()}),
        {ok, [{_, _}]} = gen_server:call(Registry, {get_workers, by_name}),
        [_] = gen_server:call(Registry, {get_local_workers, by_name}),
        true = lists:member(by_name, gen_server:call(Registry, list_stores)),
        ok = gen_server:call(Registry, {unregister, by_name, self()}),
        {error, {unknown_request, what}} = gen_server:call(Registry, what)
    end).

a_missed_change_is_healed(Config) ->
    {A, _} = both(Config),
    [Pid] = gater_shim:workers(A, healed, 1),
    on(A, fun() ->
        #{rev := Revision} = esdb_gater_link:status(),
        %% As if those between had been lost, with registrations under way.
        esdb_gater_worker_registry ! {esdb_gater_registry, added, Revision + 7, healed, self()},
        Self = self(),
        Registered = [spawn_link(fun() ->
                          ok = esdb_gater_api:register_worker(healed, self()),
                          {ok, Workers} = esdb_gater_api:get_workers(healed),
                          true = lists:keymember(self(), 2, Workers),
                          Self ! {registered, self()},
                          gater_shim:echo()
                      end) || _ <- lists:seq(1, 20)],
        [receive {registered, Worker} -> ok end || Worker <- Registered]
    end),
    until(fun() -> on(A, fun() -> maps:get(phase, esdb_gater_link:status()) end) =:= attached end),
    #{node := Gateway} = value(gateway, Config),
    {ok, Workers} = on(A, fun() ->
        {ok, Workers} = gen_server:call({esdb_gater_worker_registry, Gateway}, {get_workers, healed}),
        {ok, Workers} = esdb_gater_api:get_workers(healed)
    end),
    ?assertEqual(21, length(Workers)),
    ?assert(lists:keymember(Pid, 2, Workers)).

%%% execute and cast

turns_are_exactly_even_over_two_nodes(Config) ->
    {A, B} = both(Config),
    Pids = gater_shim:workers(A, even, 2) ++ gater_shim:workers(B, even, 3),
    await_workers(A, even, 5),
    Answers = on(A, fun() ->
        [esdb_gater_api:execute(even, fun(W) -> gen_server:call(W, {echo, I}) end)
         || I <- lists:seq(1, 500)]
    end),
    [?assertEqual(100, length([ok || {ok, {Worker, _}} <- Answers, Worker =:= Pid])) || Pid <- Pids].

results_come_in_their_shapes(Config) ->
    {A, _} = both(Config),
    _ = gater_shim:workers(A, shapes, 1),
    Give = fun(Term) ->
               on(A, fun() ->
                   Once = esdb_gater_retry:new_config(0, 0, 1),
                   esdb_gater_api:execute(shapes, fun(W) -> gen_server:call(W, {give, Term}) end, Once)
               end)
           end,
    ?assertEqual({ok, 1}, Give(1)),
    ?assertEqual({ok, ok}, Give(ok)),
    ?assertEqual({ok, 1}, Give({ok, 1})),
    ?assertEqual({ok, 1}, Give({ok, {ok, 1}})),
    ?assertEqual({ok, {value, 1}}, Give({value, 1})),
    ?assertEqual({error, not_found}, Give({error, not_found})),
    ?assertEqual({error, {wrong_expected_version, 1, 2}},
                 Give({error, {wrong_expected_version, 1, 2}})),
    ?assertEqual({error, {retries_exhausted, busy}}, Give({error, busy})).

a_worker_that_dies_half_way_is_replaced(Config) ->
    {A, B} = both(Config),
    Pids = gater_shim:workers(A, half_way, 1) ++ gater_shim:workers(B, half_way, 1),
    await_workers(A, half_way, 2),
    {ok, {Survivor, once}} = on(A, fun() ->
        First = counters:new(1, []),
        esdb_gater_api:execute(half_way, fun(W) ->
            counters:add(First, 1, 1),
            case counters:get(First, 1) of
                1 -> gen_server:call(W, die);
                _ -> gen_server:call(W, {echo, once})
            end
        end, esdb_gater_retry:new_config(1, 10, 3))
    end),
    ?assert(lists:member(Survivor, Pids)).

the_failed_worker_is_not_chosen_again(Config) ->
    {A, _} = both(Config),
    Pids = gater_shim:workers(A, failing, 4),
    Tried = on(A, fun() ->
        Self = self(),
        {error, {retries_exhausted, busy}} =
            esdb_gater_api:execute(failing, fun(W) -> Self ! {tried, W}, {error, busy} end,
                                   esdb_gater_retry:new_config(0, 0, 4)),
        [receive {tried, W} -> W end || _ <- lists:seq(1, 4)]
    end),
    ?assertEqual(lists:sort(Pids), lists:sort(Tried)).

no_worker_is_retried_and_reported(Config) ->
    {A, _} = both(Config),
    on(A, fun() ->
        {error, {retries_exhausted, no_workers}} =
            esdb_gater_api:execute(empty, fun(_) -> ok end, esdb_gater_retry:new_config(1, 1, 3)),
        {error, no_workers} = esdb_gater_api:cast(empty, fun(_) -> ok end)
    end).

a_worker_that_comes_in_time_is_used(Config) ->
    {A, _} = both(Config),
    ok = on(A, fun() ->
        Self = self(),
        ok = esdb_gater_telemetry:attach(late, fun
            ([esdb_gater, retry, attempt], _, #{store_id := late}, _) -> Self ! retried;
            (_, _, _, _) -> ok
        end, none),
        {_, Monitor} = spawn_monitor(fun() ->
            {ok, there} = esdb_gater_api:execute(late, fun(_) -> there end,
                                                 esdb_gater_retry:new_config(5, 50, 1000))
        end),
        receive retried -> ok end,
        ok = esdb_gater_api:register_worker(late, self()),
        receive {'DOWN', Monitor, _, _, Reason} -> normal = Reason end,
        ok = esdb_gater_telemetry:detach(late)
    end).

an_error_is_the_callers_bug(Config) ->
    {A, _} = both(Config),
    _ = gater_shim:workers(A, bugs, 2),
    ?assertEqual({raised, my_bug, 1}, on(A, fun() ->
        Calls = counters:new(1, []),
        try esdb_gater_api:execute(bugs, fun(_) -> counters:add(Calls, 1, 1), error(my_bug) end)
        catch error:Reason -> {raised, Reason, counters:get(Calls, 1)}
        end
    end)).

local_workers_are_preferred_when_asked(Config) ->
    {A, B} = both(Config),
    _ = gater_shim:workers(B, preferred, 3),
    [Local] = gater_shim:workers(A, preferred, 1),
    await_workers(A, preferred, 4),
    Chosen = on(A, fun() ->
        Prefer = esdb_gater_retry:new_config(#{prefer => local}),
        [esdb_gater_api:execute(preferred, fun(W) -> W end, Prefer) || _ <- lists:seq(1, 20)]
    end),
    ?assertEqual([{ok, Local}], lists:usort(Chosen)).

a_lost_node_is_node_down(Config) ->
    {A, _} = both(Config),
    Gone = gater_shim:node(value(world, Config), [?MODULE], #{otp => value(otp, Config)}),
    ok = gater_shim:start(Gone, gater_shim:named([value(gateway, Config)])),
    [_] = gater_shim:workers(Gone, lost, 1),
    await_workers(A, lost, 1),
    gater_harness:signal(Gone, "STOP"),
    Asked = fun(Once) ->
                on(A, fun() ->
                    Config1 = esdb_gater_retry:new_config(#{max_attempts => 1, ambiguous => Once}),
                    esdb_gater_api:execute(lost, fun(W) -> gen_server:call(W, {echo, 1}, 100) end,
                                           Config1)
                end)
            end,
    ?assertEqual({error, {retries_exhausted, timeout}}, Asked(retry)),
    ?assertEqual({error, timeout}, Asked(return)),
    gater_harness:signal(Gone, "CONT"),
    gater_harness:kill_node(value(world, Config), Gone),
    Answers = [{error, {retries_exhausted, Reason}} || Reason <- [node_down, worker_down, no_workers]],
    ?assert(lists:member(Asked(retry), Answers)),
    until(fun() -> Asked(retry) =:= {error, {retries_exhausted, no_workers}} end).

a_cast_runs_once_and_does_not_wait(Config) ->
    {A, _} = both(Config),
    [Pid] = gater_shim:workers(A, casting, 1),
    Pid = on(A, fun() ->
        Self = self(),
        ok = esdb_gater_api:cast(casting, fun(W) -> W ! {tell, Self}, exit(whatever) end),
        receive {worker, W} -> W end
    end).

%%% The rest

a_changed_secret_reaches_the_gateway(Config) ->
    {A, B} = both(Config),
    [on(Beam, fun() -> ok = esdb_pubsub_security:set_secret(<<"second, with bytes ", 0, 255>>) end)
     || Beam <- [A, B]],
    on(A, fun() ->
        Topic = <<"t">>,
        Signed = esdb_pubsub_security:sign(#{type => alert, level => critical}),
        ok = esdb_channel_server:publish(esdb_channel_alerts, Topic, Signed),
        %% The one before still counts.
        Before = esdb_pubsub_security:sign(#{type => alert}, <<"first">>),
        ok = esdb_channel_server:publish(esdb_channel_alerts, Topic, Before),
        Wrong = esdb_pubsub_security:sign(#{type => alert}, <<"never">>),
        {error, invalid_signature} =
            esdb_channel_server:publish(esdb_channel_alerts, Topic, Wrong)
    end).

without_the_application_there_is_no_gateway(Config) ->
    Beam = gater_shim:node(value(world, Config), [?MODULE], #{otp => value(otp, Config)}),
    on(Beam, fun() ->
        {error, no_gateway} = esdb_gater_api:register_worker(s, self()),
        {error, no_gateway} = esdb_gater_api:get_workers(s),
        [] = esdb_gater_api:get_local_workers(s),
        {error, no_workers} = esdb_gater_api:cast(s, fun(_) -> ok end),
        {error, no_gateway} = esdb_channel_server:subscribe(esdb_channel_events, <<"t">>, self()),
        {error, no_gateway} = esdb_channel_server:publish(esdb_channel_events, <<"t">>, m),
        [] = esdb_channel_server:get_subscribers(esdb_channel_events, <<"t">>),
        Signed = esdb_pubsub_security:sign(#{a => 1}, <<"s">>),
        ok = esdb_pubsub_security:verify(Signed, <<"s">>)
    end).

%%% Helpers

value(Key, Config) -> proplists:get_value(Key, Config).

both(Config) -> {value(a, Config), value(b, Config)}.

on(Beam, Fun) -> gater_harness:on(Beam, Fun).

until(Condition) -> gater_harness:until(Condition).

await_workers(Beam, Store, N) ->
    until(fun() -> on(Beam, fun() -> {ok, Ws} = esdb_gater_api:get_workers(Store), length(Ws) end)
                       =:= N end).
