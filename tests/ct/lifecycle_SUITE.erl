%% @doc Processes, nodes and the gateway itself come and go.
-module(lifecycle_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([a_dead_worker_disappears/1, a_dead_subscriber_disappears/1,
         a_dead_pid_registered_disappears/1, a_dead_node_takes_its_workers_and_subscribers_along/1,
         a_node_restarted_under_its_name_starts_afresh/1,
         another_incarnation_replaces_the_workers_of_the_last/1,
         a_thousand_workers_survive_a_kill_of_the_gateway/1,
         who_died_while_the_gateway_was_down_is_dropped/1,
         a_lost_connection_loses_no_worker_and_no_subscription/1,
         a_reconnect_over_an_alive_connection_replaces_it/1,
         a_reconnect_given_up_leaves_the_connection/1,
         the_greater_name_wins_a_simultaneous_connect/1,
         connects_from_both_sides_always_end_connected/1,
         sigterm_delivers_what_was_accepted_and_exits_0/1,
         a_gateway_that_was_told_to_stop_comes_back_with_its_workers/1,
         two_gateways_cannot_share_a_data_directory/1]).

-define(REGISTRY, esdb_gater_worker_registry).
-define(EVENTS, esdb_channel_events).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [a_dead_worker_disappears, a_dead_subscriber_disappears, a_dead_pid_registered_disappears,
     a_dead_node_takes_its_workers_and_subscribers_along,
     a_node_restarted_under_its_name_starts_afresh,
     another_incarnation_replaces_the_workers_of_the_last,
     a_thousand_workers_survive_a_kill_of_the_gateway,
     who_died_while_the_gateway_was_down_is_dropped,
     a_lost_connection_loses_no_worker_and_no_subscription,
     a_reconnect_over_an_alive_connection_replaces_it, a_reconnect_given_up_leaves_the_connection,
     the_greater_name_wins_a_simultaneous_connect, connects_from_both_sides_always_end_connected,
     sigterm_delivers_what_was_accepted_and_exits_0,
     a_gateway_that_was_told_to_stop_comes_back_with_its_workers,
     two_gateways_cannot_share_a_data_directory].

init_per_testcase(_Case, Config) ->
    [{world, gater_harness:new()} | Config].

end_per_testcase(_Case, Config) ->
    gater_harness:stop(value(world, Config)).

a_dead_worker_disappears(Config) ->
    {Gateway, A, B} = gateway_and_two(Config),
    Workers = [_, {_, Middle}, _] = [gater_harness:agent(A) || _ <- [1, 2, 3]],
    [ok = call(A, Gateway, ?REGISTRY, {register, store, Pid}) || {_, Pid} <- Workers],
    gater_harness:on(A, fun() -> exit(Middle, kill) end),
    Left = {ok, [{node(Pid), Pid} || {_, Pid} <- Workers, Pid =/= Middle]},
    [gater_harness:until(fun() -> call(Beam, Gateway, ?REGISTRY, {get_workers, store}) =:= Left end)
     || Beam <- [A, B]].

a_dead_subscriber_disappears(Config) ->
    {Gateway, A, B} = gateway_and_two(Config),
    {_, Pid} = gater_harness:agent(B),
    Channels = [?EVENTS, esdb_channel_audit],
    [ok = call(A, Gateway, C, {subscribe, T, Pid}) || C <- Channels, T <- [<<"x">>, <<"y">>]],
    gater_harness:on(B, fun() -> exit(Pid, kill) end),
    [gater_harness:until(fun() -> call(A, Gateway, C, {get_subscribers, T}) =:= [] end)
     || C <- Channels, T <- [<<"x">>, <<"y">>]].

a_dead_pid_registered_disappears(Config) ->
    {Gateway, A, B} = gateway_and_two(Config),
    Dead = gater_harness:on(B, fun() ->
        {Pid, Monitor} = spawn_monitor(fun() -> ok end),
        receive {'DOWN', Monitor, _, _, _} -> Pid end
    end),
    %% Of the caller's node and of another one.
    [begin
         Answer = call(Beam, Gateway, ?REGISTRY, {register, store, Dead}),
         ?assert(lists:member(Answer, [ok, {error, noproc}])),
         gater_harness:until(fun() ->
             call(Beam, Gateway, ?REGISTRY, {get_workers, store}) =:= {ok, []} end)
     end || Beam <- [A, B]].

a_dead_node_takes_its_workers_and_subscribers_along(Config) ->
    World = value(world, Config),
    {Gateway, A, B} = gateway_and_two(Config, #{env => [{"ESDB_GATER_LOST_GRACE_SECONDS", "1"}]}),
    {_, OnA} = gater_harness:agent(A),
    {_, OnB} = gater_harness:agent(B),
    [ok = call(A, Gateway, ?REGISTRY, {register, store, Pid}) || Pid <- [OnA, OnB]],
    [ok = call(A, Gateway, ?EVENTS, {subscribe, <<"t">>, Pid}) || Pid <- [OnA, OnB]],
    gater_harness:kill_node(World, B),
    gater_harness:until(fun() ->
        call(A, Gateway, ?REGISTRY, {get_workers, store}) =:= {ok, [{node(OnA), OnA}]} end),
    %% Once the grace is over they are gone for good.
    gater_harness:until(fun() ->
        call(A, Gateway, ?EVENTS, {get_subscribers, <<"t">>}) =:= [OnA] end).

a_node_restarted_under_its_name_starts_afresh(Config) ->
    World = value(world, Config),
    Gateway = gater_harness:gateway(World),
    A = gater_harness:node(World, #{modules => [?MODULE]}),
    Name = gater_harness:unique("again"),
    Before = gater_harness:node(World, #{name => Name, modules => [?MODULE]}),
    {_, Old} = gater_harness:agent(Before),
    ok = call(Before, Gateway, ?REGISTRY, {register, store, Old}),
    ok = call(Before, Gateway, ?EVENTS, {subscribe, <<"t">>, Old}),
    gater_harness:kill_node(World, Before),
    After = gater_harness:node(World, #{name => Name, modules => [?MODULE]}),
    New = {_, NewPid} = gater_harness:agent(After),
    ok = call(After, Gateway, ?REGISTRY, {register, store, NewPid}),
    ok = call(After, Gateway, ?EVENTS, {subscribe, <<"t">>, NewPid}),
    %% Compared where both are known as what they are.
    ?assertEqual({ok, [{node(NewPid), NewPid}]}, call(A, Gateway, ?REGISTRY, {get_workers, store})),
    ?assertEqual([NewPid], call(A, Gateway, ?EVENTS, {get_subscribers, <<"t">>})),
    ok = call(A, Gateway, ?EVENTS, {publish, <<"t">>, 1}),
    gater_harness:until(fun() -> gater_harness:messages(New) =/= [] end),
    ?assertEqual([{channel_message, ?EVENTS, <<"t">>, 1}], gater_harness:messages(New)).

another_incarnation_replaces_the_workers_of_the_last(Config) ->
    {Gateway, A, _} = gateway_and_two(Config),
    Name = gater_harness:unique("wire") ++ "@127.0.0.1",
    First = gater_wire:pid(Name, 100, 1001),
    {ok, Socket1} = wire(Config, Gateway, Name, #{creation => 1001}),
    ok = gater_wire:call(Socket1, First, ?REGISTRY, {register, store, First}),
    ok = gater_wire:call(Socket1, First, ?EVENTS, {subscribe, <<"t">>, First}),
    %% It comes back while the gateway still believes in the connection.
    Second = gater_wire:pid(Name, 100, 1002),
    {ok, Socket2} = wire(Config, Gateway, Name, #{creation => 1002}),
    ok = gater_wire:call(Socket2, Second, ?REGISTRY, {register, store, Second}),
    gater_harness:until(fun() ->
        call(A, Gateway, ?REGISTRY, {get_workers, store}) =:= {ok, [{node(Second), Second}]} end),
    gater_harness:until(fun() -> call(A, Gateway, ?EVENTS, {get_subscribers, <<"t">>}) =:= [] end),
    ok = gater_wire:await_close(Socket1),
    gen_tcp:close(Socket2).

a_thousand_workers_survive_a_kill_of_the_gateway(Config) ->
    World = value(world, Config),
    {Gateway, A, B} = gateway_and_two(Config),
    _ = register_many(A, Gateway, 1000),
    Before = {ok, Workers} = call(A, Gateway, ?REGISTRY, {get_workers, many}),
    ?assertEqual(1000, length(Workers)),
    gater_harness:signal(Gateway, "KILL"),
    137 = gater_harness:await_exit(World, Gateway),
    Again = gater_harness:restart(World, Gateway),
    %% All are there, in their order, and not only for the node they live on.
    [gater_harness:until(fun() ->
         call(Beam, Again, ?REGISTRY, {get_workers, many}) =:= Before end) || Beam <- [B, A]],
    %% They are watched again.
    [{_, First} | Rest] = Workers,
    gater_harness:on(A, fun() -> exit(First, kill) end),
    gater_harness:until(fun() ->
        call(B, Again, ?REGISTRY, {get_workers, many}) =:= {ok, Rest} end).

who_died_while_the_gateway_was_down_is_dropped(Config) ->
    World = value(world, Config),
    {Gateway, A, B} = gateway_and_two(Config),
    OnA = register_many(A, Gateway, 50),
    _ = register_many(B, Gateway, 50),
    {ok, Before} = call(A, Gateway, ?REGISTRY, {get_workers, many}),
    gater_harness:signal(Gateway, "KILL"),
    137 = gater_harness:await_exit(World, Gateway),
    {Dying, _} = lists:split(25, OnA),
    gater_harness:on(A, fun() -> [exit(Pid, kill) || Pid <- Dying], ok end),
    gater_harness:kill_node(World, B),
    Again = gater_harness:restart(World, Gateway),
    #{node := Lost} = B,
    Expected = [Worker || Worker = {Node, Pid} <- Before, Node =/= Lost,
                          not lists:member(Pid, Dying)],
    ?assertEqual(25, length(Expected)),
    gater_harness:until(fun() ->
        call(A, Again, ?REGISTRY, {get_workers, many}) =:= {ok, Expected} end).

a_lost_connection_loses_no_worker_and_no_subscription(Config) ->
    {Gateway = #{node := Gater}, A, B} = gateway_and_two(Config),
    Agent = {_, Pid} = gater_harness:agent(B),
    ok = call(B, Gateway, ?REGISTRY, {register, store, Pid}),
    ok = call(B, Gateway, ?EVENTS, {subscribe, <<"t">>, Pid}),
    true = gater_harness:on(B, fun() -> erlang:disconnect_node(Gater) end),
    %% The gateway dials by itself: nothing is done on B.
    gater_harness:until(fun() -> gater_harness:on(B, fun() ->
        lists:member(Gater, nodes(hidden)) end) end),
    gater_harness:until(fun() ->
        call(A, Gateway, ?REGISTRY, {get_workers, store}) =:= {ok, [{node(Pid), Pid}]} end),
    ok = call(A, Gateway, ?EVENTS, {publish, <<"t">>, after_all}),
    gater_harness:until(fun() -> gater_harness:messages(Agent) =/= [] end),
    ?assertEqual([{channel_message, ?EVENTS, <<"t">>, after_all}], gater_harness:messages(Agent)).

a_reconnect_over_an_alive_connection_replaces_it(Config) ->
    {Gateway, A, _} = gateway_and_two(Config),
    Name = gater_harness:unique("wire") ++ "@127.0.0.1",
    Pid = gater_wire:pid(Name, 7, 99),
    {ok, First} = wire(Config, Gateway, Name, #{creation => 99}),
    ok = gater_wire:call(First, Pid, ?REGISTRY, {register, store, Pid}),
    ok = gater_wire:call(First, Pid, ?EVENTS, {subscribe, <<"t">>, Pid}),
    Last = lists:foldl(fun(_, Socket) ->
        {ok, Next} = wire(Config, Gateway, Name, #{creation => 99}),
        ok = gater_wire:await_close(Socket),
        Next
    end, First, lists:seq(1, 10)),
    %% Same creation: the same node. Its worker is watched again over the new connection.
    gater_harness:until(fun() ->
        call(A, Gateway, ?REGISTRY, {get_workers, store}) =:= {ok, [{node(Pid), Pid}]} end),
    ok = call(A, Gateway, ?EVENTS, {publish, <<"t">>, hello}),
    ok = await(Last, fun(Terms) -> case Terms of
        {_, {channel_message, ?EVENTS, <<"t">>, hello}} -> true;
        _ -> false
    end end),
    gen_tcp:close(Last).

a_reconnect_given_up_leaves_the_connection(Config) ->
    {Gateway, _, _} = gateway_and_two(Config),
    Name = gater_harness:unique("wire") ++ "@127.0.0.1",
    Pid = gater_wire:pid(Name, 7, 99),
    {ok, Socket} = wire(Config, Gateway, Name, #{creation => 99}),
    {error, {status, <<"alive">>}} = wire(Config, Gateway, Name, #{creation => 99, alive => false}),
    ?assertEqual({ok, []}, gater_wire:call(Socket, Pid, ?REGISTRY, {get_workers, store})),
    gen_tcp:close(Socket).

the_greater_name_wins_a_simultaneous_connect(Config) ->
    World = value(world, Config),
    [begin
         Short = gater_harness:unique(Base),
         Name = Short ++ "@127.0.0.1",
         {Listener, Epmd} = gater_wire:listen_as(Short),
         Gateway = gater_harness:gateway(World, #{base => "m", args => ["--join", Name]}),
         {ok, Dialled} = gen_tcp:accept(Listener, 30000),
         %% The gateway has said its name and waits: now it is dialled.
         {ok, <<$N, _/binary>>} = gater_wire:read(Dialled),
         Ours = gater_wire:open(maps:get(port, Gateway)),
         ok = gater_wire:name_message(Ours, Name, gater_wire:flags(), 17),
         ?assertEqual({ok, <<$s, Expected/binary>>}, gater_wire:read(Ours), Base),
         [gen_tcp:close(Socket) || Socket <- [Ours, Dialled, Listener, Epmd]]
     end || {Base, Expected} <- [{"a", <<"nok">>}, {"z", <<"ok_simultaneous">>}]].

connects_from_both_sides_always_end_connected(Config) ->
    {Gateway = #{node := Gater}, A, B} = gateway_and_two(Config),
    Agent = {_, Pid} = gater_harness:agent(A),
    %% From now on the gateway dials whenever the connection is lost.
    ok = call(A, Gateway, ?REGISTRY, {register, store, Pid}),
    ok = call(A, Gateway, ?EVENTS, {subscribe, <<"t">>, Pid}),
    Pangs = gater_harness:on(A, fun() ->
        lists:append([begin
            erlang:disconnect_node(Gater),
            %% Spread over the time in which the gateway dials.
            Pause = rand:uniform(300) - 1,
            receive after Pause -> ok end,
            Self = self(),
            Pingers = [spawn_monitor(fun() -> Self ! {self(), net_adm:ping(Gater)} end)
                       || _ <- lists:seq(1, 5)],
            [receive {P, Answer} -> demonitor(M, [flush]), Answer end || {P, M} <- Pingers] -- [pong || _ <- Pingers]
        end || _ <- lists:seq(1, 40)])
    end),
    ?assertEqual([], Pangs),
    ?assertEqual({ok, [{node(Pid), Pid}]}, call(B, Gateway, ?REGISTRY, {get_workers, store})),
    ok = call(B, Gateway, ?EVENTS, {publish, <<"t">>, once}),
    gater_harness:until(fun() -> gater_harness:messages(Agent) =/= [] end),
    ?assertEqual([{channel_message, ?EVENTS, <<"t">>, once}], gater_harness:messages(Agent)).

sigterm_delivers_what_was_accepted_and_exits_0(Config) ->
    World = value(world, Config),
    {Gateway = #{node := Gater, port := Port}, A, B} = gateway_and_two(Config),
    Agent = {_, Pid} = gater_harness:agent(B),
    ok = call(B, Gateway, ?EVENTS, {subscribe, <<"t">>, Pid}),
    ok = gater_harness:on(A, fun() ->
        [gen_server:cast({?EVENTS, Gater}, {publish, <<"t">>, {N, binary:copy(<<N>>, 2000)}})
         || N <- lists:seq(1, 10000)],
        gen_server:call({?EVENTS, Gater}, {publish, <<"t">>, last})
    end),
    gater_harness:signal(Gateway, "TERM"),
    ?assertEqual(0, gater_harness:await_exit(World, Gateway)),
    gater_harness:until(fun() -> gater_harness:on(B, fun() ->
        length(gater_agent:messages(Pid)) >= 10001 end) end),
    Arrived = gater_harness:on(B, fun() ->
        [case M of {N, _} -> N; last -> last end
         || {channel_message, _, _, M} <- gater_agent:messages(Pid)] end),
    ?assertEqual(lists:seq(1, 10000) ++ [last], Arrived),
    ?assertMatch({_, Pid}, Agent),
    ?assertMatch({error, _}, gen_tcp:connect({127, 0, 0, 1}, Port, [])),
    {ok, Names} = erl_epmd:names({127, 0, 0, 1}),
    [Short, _] = string:split(atom_to_list(Gater), "@"),
    ?assertNot(lists:keymember(Short, 1, Names)).

a_gateway_that_was_told_to_stop_comes_back_with_its_workers(Config) ->
    World = value(world, Config),
    {Gateway, A, B} = gateway_and_two(Config),
    _ = register_many(A, Gateway, 20),
    Before = call(A, Gateway, ?REGISTRY, {get_workers, many}),
    Last = lists:foldl(fun(_, Running) ->
        gater_harness:signal(Running, "TERM"),
        0 = gater_harness:await_exit(World, Running),
        gater_harness:restart(World, Running)
    end, Gateway, [1, 2, 3]),
    gater_harness:until(fun() -> call(B, Last, ?REGISTRY, {get_workers, many}) =:= Before end).

two_gateways_cannot_share_a_data_directory(Config) ->
    World = value(world, Config),
    #{options := #{name := Name}} = Gateway = gater_harness:gateway(World),
    Data = filename:join(gater_harness:dir(World), Name),
    {error, {ended, 1, Log}} = gater_harness:launch(World, #{data_dir => Data}),
    ?assertMatch({_, _}, binary:match(Log, list_to_binary(Data))),
    ?assert(gater_harness:alive(Gateway)).

register_many(Beam, #{node := Gater}, Count) ->
    gater_harness:on(Beam, fun() ->
        Pids = [gater_agent:start() || _ <- lists:seq(1, Count)],
        Requests = [gen_server:send_request({?REGISTRY, Gater}, {register, many, Pid}) || Pid <- Pids],
        [{reply, ok} = gen_server:wait_response(Request, 30000) || Request <- Requests],
        Pids
    end).

gateway_and_two(Config) -> gateway_and_two(Config, #{}).

gateway_and_two(Config, Options) ->
    World = value(world, Config),
    Gateway = gater_harness:gateway(World, Options),
    [A, B] = [gater_harness:node(World, #{modules => [?MODULE]}) || _ <- [1, 2]],
    {Gateway, A, B}.

wire(Config, #{port := Port}, Name, Options) ->
    gater_wire:connect(Port, Name, gater_harness:cookie(value(world, Config)), Options).

await(Socket, Wanted) ->
    case gater_wire:terms(Socket, 20000) of
        {error, Reason} -> {error, Reason};
        Terms -> case Wanted(Terms) of true -> ok; false -> await(Socket, Wanted) end
    end.

value(Key, Config) -> proplists:get_value(Key, Config).

%% The gateway may be coming back: a call is made once it answers.
call(Beam, Gateway = #{node := Gater}, Name, Request) ->
    gater_harness:until(fun() -> gater_harness:on(Beam, fun() -> net_adm:ping(Gater) end) =:= pong end),
    gater_harness:call(Beam, {Name, Gateway}, Request).
