%% @doc A plain BEAM without any library of ours: everything with `gen_server' and `net_adm'.
-module(plain_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([ping_is_answered_and_the_gateway_is_a_hidden_node/1, what_the_readme_prints_works/1,
         workers_are_found_in_registration_order/1, local_workers_are_those_of_the_caller/1,
         stores_are_listed/1, a_remote_subscriber_gets_what_is_published/1,
         an_unsubscribed_process_gets_nothing_more/1,
         what_is_taken_back_while_it_waits_stays_so/1, casts_do_what_calls_do/1,
         each_of_the_ten_channels_is_there/1, subscribers_are_listed/1,
         the_last_health_message_is_replayed/1, a_rate_limit_is_reached_and_passes/1,
         an_unknown_name_is_noproc_at_once/1, an_unknown_request_is_answered/1,
         a_monitored_unknown_name_is_down_at_once/1, erpc_is_refused_at_once/1,
         a_thousand_late_answers_leave_no_message/1, messages_of_a_publisher_arrive_in_order/1,
         otp_27_does_the_same/1, otp_29_does_the_same/1]).

-define(REGISTRY, esdb_gater_worker_registry).
-define(EVENTS, esdb_channel_events).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [ping_is_answered_and_the_gateway_is_a_hidden_node, what_the_readme_prints_works,
     workers_are_found_in_registration_order, local_workers_are_those_of_the_caller,
     stores_are_listed, a_remote_subscriber_gets_what_is_published,
     an_unsubscribed_process_gets_nothing_more, what_is_taken_back_while_it_waits_stays_so,
     casts_do_what_calls_do,
     each_of_the_ten_channels_is_there, subscribers_are_listed,
     the_last_health_message_is_replayed, a_rate_limit_is_reached_and_passes,
     an_unknown_name_is_noproc_at_once, an_unknown_request_is_answered,
     a_monitored_unknown_name_is_down_at_once, erpc_is_refused_at_once,
     a_thousand_late_answers_leave_no_message, messages_of_a_publisher_arrive_in_order,
     otp_27_does_the_same, otp_29_does_the_same].

init_per_suite(Config) ->
    World = gater_harness:new(),
    Gateway = gater_harness:gateway(World),
    [A, B] = [gater_harness:node(World, #{modules => [?MODULE]}) || _ <- [1, 2]],
    [{world, World}, {gateway, Gateway}, {a, A}, {b, B} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

ping_is_answered_and_the_gateway_is_a_hidden_node(Config) ->
    #{node := Gater} = value(gateway, Config),
    {pong, Hidden, Visible} = gater_harness:on(value(a, Config), fun() ->
        {net_adm:ping(Gater), nodes(hidden), nodes()}
    end),
    ?assert(lists:member(Gater, Hidden)),
    ?assertNot(lists:member(Gater, Visible)).

what_the_readme_prints_works(Config) ->
    #{node := Gater} = value(gateway, Config),
    Agent = gater_harness:agent(value(a, Config)),
    gater_harness:in(Agent, fun() ->
        pong = net_adm:ping(Gater),
        Registry = {esdb_gater_worker_registry, Gater},
        ok = gen_server:call(Registry, {register, my_store, self()}),
        {ok, [{_Node, _Pid}]} = gen_server:call(Registry, {get_workers, my_store}),

        Events = {esdb_channel_events, Gater},
        ok = gen_server:call(Events, {subscribe, <<"user.created">>, self()}),
        ok = gen_server:call(Events, {publish, <<"user.created">>, #{id => 1}}),
        #{id := 1} = receive {channel_message, esdb_channel_events, <<"user.created">>, Event} -> Event end,
        ok = gen_server:cast(Events, {unsubscribe, <<"user.created">>, self()})
    end).

workers_are_found_in_registration_order(Config) ->
    Agents = [gater_harness:agent(value(Where, Config)) || Where <- [b, a, b, a, a]],
    [ok = call(Beam, Config, ?REGISTRY, {register, ordered, Pid}) || {Beam, Pid} <- Agents],
    Expected = [{node(Pid), Pid} || {_, Pid} <- Agents],
    [?assertEqual({ok, Expected}, call(value(W, Config), Config, ?REGISTRY, {get_workers, ordered}))
     || W <- [a, b]],
    {Beam, Third} = lists:nth(3, Agents),
    ok = call(Beam, Config, ?REGISTRY, {unregister, ordered, Third}),
    ?assertEqual({ok, Expected -- [{node(Third), Third}]},
        call(Beam, Config, ?REGISTRY, {get_workers, ordered})),
    ?assertEqual({ok, []}, call(Beam, Config, ?REGISTRY, {get_workers, nobody_serves_this})).

local_workers_are_those_of_the_caller(Config) ->
    {A, OnA} = gater_harness:agent(value(a, Config)),
    {B, OnB} = gater_harness:agent(value(b, Config)),
    %% Whoever registers: the pid counts, not the caller.
    [ok = call(A, Config, ?REGISTRY, {register, local, Pid}) || Pid <- [OnA, OnB]],
    ?assertEqual([OnA], call(A, Config, ?REGISTRY, {get_local_workers, local})),
    ?assertEqual([OnB], call(B, Config, ?REGISTRY, {get_local_workers, local})).

stores_are_listed(Config) ->
    {A, Pid} = gater_harness:agent(value(a, Config)),
    [ok = call(A, Config, ?REGISTRY, {register, Store, Pid}) || Store <- [zoo, 'ä store', abc]],
    Stores = call(A, Config, ?REGISTRY, list_stores),
    ?assertEqual([], [zoo, 'ä store', abc] -- Stores),
    ?assertEqual(lists:sort(Stores), Stores).

a_remote_subscriber_gets_what_is_published(Config) ->
    Subscriber = {_, Pid} = gater_harness:agent(value(b, Config)),
    Topic = <<"remote">>,
    %% Subscribed from the other node, so the gateway is told of a pid the caller does not own.
    ok = call(value(a, Config), Config, ?EVENTS, {subscribe, Topic, Pid}),
    ok = call(value(a, Config), Config, ?EVENTS, {publish, Topic, {hello, 1}}),
    gater_harness:until(fun() -> gater_harness:messages(Subscriber) =/= [] end),
    ?assertEqual([{channel_message, ?EVENTS, Topic, {hello, 1}}], gater_harness:messages(Subscriber)).

an_unsubscribed_process_gets_nothing_more(Config) ->
    Topic = <<"left">>,
    Leaver = {_, Leaving} = gater_harness:agent(value(b, Config)),
    Stayer = {_, Staying} = gater_harness:agent(value(b, Config)),
    [ok = call(value(b, Config), Config, ?EVENTS, {subscribe, Topic, Pid}) || Pid <- [Leaving, Staying]],
    ok = call(value(b, Config), Config, ?EVENTS, {unsubscribe, Topic, Leaving}),
    ok = call(value(a, Config), Config, ?EVENTS, {publish, Topic, once}),
    gater_harness:until(fun() -> gater_harness:messages(Stayer) =/= [] end),
    ?assertEqual([], gater_harness:messages(Leaver)).

%% The node accepts connections and says nothing, so both wait for it.
what_is_taken_back_while_it_waits_stays_so(Config) ->
    #{node := Gater} = value(gateway, Config),
    Short = gater_harness:unique("silent"),
    {Listener, Epmd} = gater_wire:listen_as(Short),
    Pid = gater_wire:pid(Short ++ "@127.0.0.1", 1, 77),
    Registry = {?REGISTRY, Gater},
    Events = {?EVENTS, Gater},
    Registrations = fun() ->
        #{registrations := Count} = gen_server:call({esdb_gater_session, Gater}, info),
        Count
    end,
    gater_harness:on(value(a, Config), fun() ->
        Before = Registrations(),
        Waiting = [gen_server:send_request(Registry, {register, silent, Pid}),
                   gen_server:send_request(Events, {subscribe, <<"silent">>, Pid})],
        ok = gen_server:call(Registry, {unregister, silent, Pid}),
        ok = gen_server:call(Events, {unsubscribe, <<"silent">>, Pid}),
        [{reply, ok} = gen_server:wait_response(Request, 20000) || Request <- Waiting],
        Before = Registrations(),
        [] = gen_server:call(Events, {get_subscribers, <<"silent">>}),
        %% The other way round it counts.
        ok = gen_server:call(Events, {subscribe, <<"silent">>, Pid}),
        [Pid] = gen_server:call(Events, {get_subscribers, <<"silent">>}),
        ok = gen_server:call(Events, {unsubscribe, <<"silent">>, Pid})
    end),
    [gen_tcp:close(Socket) || Socket <- [Listener, Epmd]].

casts_do_what_calls_do(Config) ->
    A = value(a, Config),
    Subscriber = {_, Pid} = gater_harness:agent(A),
    Topic = <<"cast">>,
    cast(A, Config, ?EVENTS, {subscribe, Topic, Pid}),
    cast(A, Config, ?EVENTS, {publish, Topic, 1}),
    gater_harness:until(fun() -> gater_harness:messages(Subscriber) =/= [] end),
    cast(A, Config, ?EVENTS, {unsubscribe, Topic, Pid}),
    gater_harness:until(fun() -> call(A, Config, ?EVENTS, {get_subscribers, Topic}) =:= [] end),
    cast(A, Config, ?REGISTRY, {register, by_cast, Pid}),
    Found = {ok, [{node(Pid), Pid}]},
    gater_harness:until(fun() -> call(A, Config, ?REGISTRY, {get_workers, by_cast}) =:= Found end),
    cast(A, Config, ?REGISTRY, {unregister, by_cast, Pid}),
    gater_harness:until(fun() -> call(A, Config, ?REGISTRY, {get_workers, by_cast}) =:= {ok, []} end).

each_of_the_ten_channels_is_there(Config) ->
    A = value(a, Config),
    Agent = {_, Pid} = gater_harness:agent(A),
    Signed = [esdb_channel_alerts, esdb_channel_security],
    Others = [esdb_channel_events, esdb_channel_health, esdb_channel_system, esdb_channel_metrics,
              esdb_channel_audit, esdb_channel_lifecycle, esdb_channel_logging,
              esdb_channel_diagnostics],
    [ok = call(A, Config, Channel, {subscribe, <<"t">>, Pid}) || Channel <- Signed ++ Others],
    [?assertEqual({error, signature_required}, call(A, Config, Channel, {publish, <<"t">>, #{a => 1}}))
     || Channel <- Signed],
    [ok = call(A, Config, Channel, {publish, <<"t">>, Channel}) || Channel <- Others],
    gater_harness:until(fun() -> length(gater_harness:messages(Agent)) >= length(Others) end),
    ?assertEqual(lists:sort([{channel_message, C, <<"t">>, C} || C <- Others]),
        lists:sort(gater_harness:messages(Agent))).

subscribers_are_listed(Config) ->
    {A, OnA} = gater_harness:agent(value(a, Config)),
    {_, OnB} = gater_harness:agent(value(b, Config)),
    [ok = call(A, Config, ?EVENTS, {subscribe, <<"listed">>, Pid}) || Pid <- [OnA, OnB]],
    ?assertEqual(lists:sort([OnA, OnB]),
        lists:sort(call(A, Config, ?EVENTS, {get_subscribers, <<"listed">>}))).

the_last_health_message_is_replayed(Config) ->
    {A, Early} = gater_harness:agent(value(a, Config)),
    Late = {_, LatePid} = gater_harness:agent(value(b, Config)),
    Health = esdb_channel_health,
    ok = call(A, Config, Health, {subscribe, <<"db">>, Early}),
    [ok = call(A, Config, Health, {publish, <<"db">>, {state, N}}) || N <- [1, 2, 3]],
    ok = call(A, Config, Health, {subscribe, <<"db">>, LatePid}),
    gater_harness:until(fun() -> gater_harness:messages(Late) =/= [] end),
    ?assertEqual([{channel_message, Health, <<"db">>, {state, 3}}], gater_harness:messages(Late)).

a_rate_limit_is_reached_and_passes(Config) ->
    #{node := Gater} = value(gateway, Config),
    Channel = {esdb_channel_diagnostics, Gater},
    %% A full bucket holds one second's rate, 100. What is added while it is emptied is counted in.
    {Accepted, Refused, Micros} = gater_harness:on(value(a, Config), fun() ->
        Before = erlang:monotonic_time(microsecond),
        Answers = [gen_server:call(Channel, {publish, <<"limited">>, N}) || N <- lists:seq(1, 300)],
        Took = erlang:monotonic_time(microsecond) - Before,
        {length([ok || ok <- Answers]), length([x || {error, rate_limited} <- Answers]), Took}
    end),
    ?assertEqual(300, Accepted + Refused),
    ?assert(Accepted >= 100),
    ?assert(Accepted =< 101 + Micros * 100 div 1000000, {Accepted, Micros}),
    %% Another topic has a bucket of its own, and this one fills again.
    ok = call(value(a, Config), Config, esdb_channel_diagnostics, {publish, <<"another">>, 1}),
    gater_harness:until(fun() ->
        call(value(a, Config), Config, esdb_channel_diagnostics, {publish, <<"limited">>, again}) =:= ok
    end).

an_unknown_name_is_noproc_at_once(Config) ->
    #{node := Gater} = value(gateway, Config),
    {Exit, Micros} = gater_harness:on(value(a, Config), fun() ->
        Before = erlang:monotonic_time(microsecond),
        Reason = try gen_server:call({no_such_name, Gater}, hello, 60000) catch exit:R -> R end,
        {Reason, erlang:monotonic_time(microsecond) - Before}
    end),
    ?assertMatch({noproc, {gen_server, call, _}}, Exit),
    ?assert(Micros < 5000000).

an_unknown_request_is_answered(Config) ->
    [?assertMatch({error, {unknown_request, _}}, call(value(a, Config), Config, Name, Request))
     || Name <- [?REGISTRY, ?EVENTS, esdb_gater_session, esdb_gater_cluster, esdb_gater_gateway,
                 esdb_gater_relay],
        Request <- [what, {what}, {what, 1}, {register}, <<"what">>, [1, 2], {publish, 1, 2, 3, 4}, #{a => b}]].

a_monitored_unknown_name_is_down_at_once(Config) ->
    #{node := Gater} = value(gateway, Config),
    ?assertMatch({'DOWN', _, process, {no_such_name, Gater}, noproc},
        gater_harness:on(value(a, Config), fun() ->
            _ = monitor(process, {no_such_name, Gater}),
            receive Down -> Down after 20000 -> nothing end
        end)).

erpc_is_refused_at_once(Config) ->
    #{node := Gater} = value(gateway, Config),
    ?assertEqual({error, {erpc, notsup}}, gater_harness:on(value(a, Config), fun() ->
        try erpc:call(Gater, erlang, node, [], 60000) catch Class:Reason -> {Class, Reason} end
    end)).

a_thousand_late_answers_leave_no_message(Config) ->
    Gateway = #{node := Gater} = value(gateway, Config),
    A = value(a, Config),
    Caller = gater_harness:agent(A),
    pong = gater_harness:in(Caller, fun() -> net_adm:ping(Gater) end),
    %% A gateway that stands still answers late for certain, on however busy a machine.
    gater_harness:signal(Gateway, "STOP"),
    TimedOut = try
        gater_harness:in(Caller, fun() ->
            Late = [try gen_server:call({?REGISTRY, Gater}, {get_workers, nothing}, 0) of
                        Answer -> Answer
                    catch
                        exit:{timeout, _} -> timeout
                    end || _ <- lists:seq(1, 1000)],
            length([timeout || timeout <- Late])
        end)
    after
        gater_harness:signal(Gateway, "CONT")
    end,
    ?assertEqual(1000, TimedOut),
    %% The connection is in order: after this answer all the late ones have come by.
    {ok, []} = gater_harness:in(Caller, fun() ->
        gen_server:call({?REGISTRY, Gater}, {get_workers, nothing}, 60000) end),
    %% The agent keeps whatever it is sent that is no answer to a call.
    ?assertEqual([], gater_harness:messages(Caller)).

messages_of_a_publisher_arrive_in_order(Config) ->
    #{node := Gater} = value(gateway, Config),
    Subscriber = {_, Pid} = gater_harness:agent(value(b, Config)),
    ok = call(value(b, Config), Config, ?EVENTS, {subscribe, <<"order">>, Pid}),
    %% Small ones and ones that leave in fragments.
    Sizes = [case N rem 50 of 0 -> 200000; _ -> 10 end || N <- lists:seq(1, 2000)],
    gater_harness:on(value(a, Config), fun() ->
        [gen_server:cast({?EVENTS, Gater}, {publish, <<"order">>, {N, binary:copy(<<0>>, Size)}})
         || {N, Size} <- lists:enumerate(Sizes)],
        ok
    end),
    Numbers = fun() ->
        gater_harness:in(Subscriber, fun() -> ok end),
        [N || {channel_message, _, _, {N, _}} <- gater_harness:messages(Subscriber)]
    end,
    gater_harness:until(fun() -> length(Numbers()) >= 2000 end),
    ?assertEqual(lists:seq(1, 2000), Numbers()).

otp_27_does_the_same(Config) -> does_the_same(27, Config).

otp_29_does_the_same(Config) -> does_the_same(29, Config).

does_the_same(Release, Config) ->
    case gater_release:root(Release) of
        {skip, _} = Skip ->
            Skip;
        {ok, _} ->
            Beam = gater_harness:node(value(world, Config), #{otp => Release, modules => [?MODULE]}),
            ?assertEqual(integer_to_list(Release), gater_harness:on(Beam, fun() -> erlang:system_info(otp_release) end)),
            There = [{a, Beam} | Config],
            [?MODULE:Case(There)
             || Case <- [ping_is_answered_and_the_gateway_is_a_hidden_node,
                         a_remote_subscriber_gets_what_is_published, casts_do_what_calls_do,
                         an_unknown_name_is_noproc_at_once, erpc_is_refused_at_once,
                         a_thousand_late_answers_leave_no_message]],
            ok
    end.

value(Key, Config) -> proplists:get_value(Key, Config).

call(Beam, Config, Name, Request) ->
    gater_harness:call(Beam, {Name, value(gateway, Config)}, Request).

cast(Beam, Config, Name, Request) ->
    gater_harness:cast(Beam, {Name, value(gateway, Config)}, Request).
