%% @doc Several gateways, one registry: founded, kept and changed, and alive when one of them is not.
-module(cluster_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_testcase/2, end_per_testcase/2]).
-export([two_of_three_found_a_cluster_and_the_third_joins/1,
         any_gateway_takes_a_registration_and_all_offer_the_worker/1,
         workers_and_nodes_that_die_disappear_at_all_gateways/1,
         registrations_go_on_and_look_ups_never_stop_when_the_leader_is_killed/1,
         a_rolling_restart_under_load_fails_no_execute/1,
         all_gateways_killed_at_once_lose_nothing/1,
         a_wiped_gateway_waits_until_it_is_let_in_as_a_new_member/1,
         a_new_gateway_is_brought_up_to_date_by_a_snapshot/1,
         a_cluster_grows_and_shrinks_and_a_gateway_is_replaced_under_load/1,
         a_minority_answers_look_ups_and_writes_nothing/1,
         a_leader_in_a_minority_writes_nothing_and_nothing_is_lost/1,
         a_node_that_one_gateway_reaches_keeps_its_workers/1]).

-define(REGISTRY, esdb_gater_worker_registry).
-define(CLUSTER, esdb_gater_cluster).
%% What a client gives a gateway to answer; a write without a quorum is refused within it.
-define(CLIENT_MS, 10000).
%% For what the benchmark measures in fractions of a second.
-define(GENEROUS_MS, 15000).

%% Registrations of a big snapshot, and more entries than a gateway writes before it takes one.
-define(MANY, 10000).
-define(ENTRIES, 5200).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [two_of_three_found_a_cluster_and_the_third_joins,
     any_gateway_takes_a_registration_and_all_offer_the_worker,
     workers_and_nodes_that_die_disappear_at_all_gateways,
     registrations_go_on_and_look_ups_never_stop_when_the_leader_is_killed,
     a_rolling_restart_under_load_fails_no_execute,
     all_gateways_killed_at_once_lose_nothing,
     a_wiped_gateway_waits_until_it_is_let_in_as_a_new_member,
     a_new_gateway_is_brought_up_to_date_by_a_snapshot,
     a_cluster_grows_and_shrinks_and_a_gateway_is_replaced_under_load,
     a_minority_answers_look_ups_and_writes_nothing,
     a_leader_in_a_minority_writes_nothing_and_nothing_is_lost,
     a_node_that_one_gateway_reaches_keeps_its_workers].

init_per_testcase(Case, Config) ->
    case gater_cluster:start(maps:merge(#{modules => [?MODULE | gater_nemesis:modules()], beams => 2},
                                        options(Case))) of
        {ok, Cluster} -> [{cluster, Cluster} | Config];
        {skip, _} = Skip -> Skip
    end.

end_per_testcase(Case, Config) ->
    Cluster = value(cluster, Config),
    _ = case value(tc_status, Config) of
        ok -> ok;
        _ ->
            Kept = filename:join([os:getenv("GATER_ROOT", "."), "target", "ct", "cluster", Case]),
            gater_cluster:keep_logs(Cluster, Kept)
    end,
    gater_cluster:stop(Cluster).

options(two_of_three_found_a_cluster_and_the_third_joins) ->
    #{absent => 1};
options(workers_and_nodes_that_die_disappear_at_all_gateways) ->
    #{env => [{"ESDB_GATER_LOST_GRACE_SECONDS", "1"}]};
options(a_minority_answers_look_ups_and_writes_nothing) ->
    #{network => namespaces};
options(a_leader_in_a_minority_writes_nothing_and_nothing_is_lost) ->
    #{network => namespaces};
options(a_node_that_one_gateway_reaches_keeps_its_workers) ->
    #{network => namespaces, env => [{"ESDB_GATER_LOST_GRACE_SECONDS", "1"}]};
options(_) ->
    #{}.

%%% One registry

two_of_three_found_a_cluster_and_the_third_joins(Config) ->
    {Cluster, [One, Two, Three], [Beam | _]} = cluster(Config),
    Worker = worker(Cluster, Beam),
    gater_harness:until(fun() -> call(Cluster, Beam, One, {register, store, Worker}) =:= ok end),
    await_offered(Cluster, [One, Two], [Worker]),
    gater_cluster:up(Cluster, Three),
    await_voters(Cluster, One, [One, Two, Three]),
    await_offered(Cluster, [One, Two, Three], [Worker]),
    gater_cluster:settle(Cluster),
    %% It counts: without one of the others there is a majority still.
    gater_cluster:kill(Cluster, One),
    Another = worker(Cluster, Beam),
    gater_harness:until(fun() -> call(Cluster, Beam, Three, {register, store, Another}) =:= ok end),
    await_offered(Cluster, [Two, Three], [Worker, Another]).

any_gateway_takes_a_registration_and_all_offer_the_worker(Config) ->
    {Cluster, Gateways, Beams} = ready(Config),
    Workers = [begin
        Worker = worker(Cluster, Beam),
        ?assertEqual(ok, call(Cluster, Beam, Gateway, {register, store, Worker})),
        %% Whoever is told `ok' finds it there.
        {ok, Offered} = call(Cluster, Beam, Gateway, {get_workers, store}),
        ?assert(lists:member({Beam, Worker}, Offered)),
        Worker
    end || _ <- [1, 2, 3], Gateway <- Gateways, Beam <- Beams],
    %% In the same order everywhere.
    await_offered(Cluster, Gateways, Workers),
    %% Registered twice at different gateways is one entry in its first place; taken back anywhere.
    [?assertEqual(ok, call(Cluster, hd(Beams), Gateway, {register, store, hd(Workers)})) || Gateway <- Gateways],
    await_offered(Cluster, Gateways, Workers),
    {Leaving, Staying} = lists:split(length(Gateways), Workers),
    [?assertEqual(ok, call(Cluster, hd(Beams), Gateway, {unregister, store, Worker}))
     || {Gateway, Worker} <- lists:zip(Gateways, Leaving)],
    await_offered(Cluster, Gateways, Staying),
    #{registrations := Count} = gater_cluster:status(Cluster, hd(Gateways)),
    ?assertEqual(length(Staying), Count).

workers_and_nodes_that_die_disappear_at_all_gateways(Config) ->
    {Cluster, Gateways, [A, B]} = ready(Config),
    OnA = [worker(Cluster, A) || _ <- Gateways],
    OnB = [worker(Cluster, B) || _ <- Gateways],
    [?assertEqual(ok, call(Cluster, A, Gateway, {register, store, Worker}))
     || {Gateway, Workers} <- lists:zip(Gateways, [[X, Y] || {X, Y} <- lists:zip(OnA, OnB)]),
        Worker <- Workers],
    [Dying | Rest] = OnA,
    true = gater_cluster:on(Cluster, A, fun() -> exit(Dying, kill) end),
    gater_harness:until(fun() -> lists:all(fun(Gateway) ->
        {ok, Offered} = call(Cluster, A, Gateway, {get_workers, store}),
        not lists:member({A, Dying}, Offered)
    end, Gateways) end),
    %% A node that is gone: given up after the grace time.
    gater_cluster:kill(Cluster, B),
    await_offered(Cluster, A, Gateways, Rest),
    await_registrations(Cluster, Gateways, length(Rest)),
    %% One that is back under its name is another.
    gater_cluster:up(Cluster, B),
    New = worker(Cluster, B),
    ?assertEqual(ok, call(Cluster, B, lists:last(Gateways), {register, store, New})),
    await_offered(Cluster, Gateways, Rest ++ [New]).

%%% Gateways that go and come

registrations_go_on_and_look_ups_never_stop_when_the_leader_is_killed(Config) ->
    {Cluster, Gateways, [A, B]} = ready(Config),
    Before = [worker(Cluster, A) || _ <- lists:seq(1, 20)],
    [?assertEqual(ok, call(Cluster, A, hd(Gateways), {register, store, Worker})) || Worker <- Before],
    await_offered(Cluster, Gateways, Before),
    Leader = gater_cluster:leader(Cluster),
    Others = Gateways -- [Leader],
    Known = [{A, Worker} || Worker <- Before],
    Looking = in_background(Cluster, B, fun(Stop) -> look_up_until(Stop, Others, Known, 0) end),
    New = worker(Cluster, A),
    gater_cluster:kill(Cluster, Leader),
    %% Through one that was no leader: what it is told while there is none waits or is refused.
    Micros = gater_cluster:on(Cluster, A, fun() ->
        {Micros, ok} = timer:tc(fun() -> insist(Others, {register, store, New}, ?GENEROUS_MS) end),
        Micros
    end),
    ct:pal("registered ~b ms after the leader was killed", [Micros div 1000]),
    gater_harness:until(fun() ->
        Successor = gater_cluster:leader(Cluster),
        Successor =/= undefined andalso Successor =/= Leader
    end),
    ?assertMatch({looked_up, Count} when Count > 0, stop_background(Looking)),
    gater_cluster:up(Cluster, Leader),
    gater_cluster:settle(Cluster),
    await_offered(Cluster, Gateways, Before ++ [New]).

a_rolling_restart_under_load_fails_no_execute(Config) ->
    {Cluster, Gateways, Beams = [A, B]} = ready(Config),
    Workers = [Worker || Beam <- Beams, _ <- [1, 2, 3], Worker <- [worker(Cluster, Beam)],
                         ok <- [call(Cluster, Beam, hd(Gateways), {register, store, Worker})]],
    ?assertEqual(6, length(Workers)),
    await_offered(Cluster, Gateways, Workers),
    Executing = [in_background(Cluster, Beam, fun(Stop) -> execute_until(Stop, Gateways, 0) end)
                 || Beam <- Beams, _ <- [1, 2]],
    Registering = in_background(Cluster, A, fun(Stop) -> register_until(Stop, Gateways, []) end),
    [begin
         ?assertEqual(0, gater_cluster:terminate(Cluster, Gateway)),
         gater_cluster:up(Cluster, Gateway),
         gater_cluster:settle(Cluster),
         %% An operator goes on when the gateway serves again.
         gater_harness:until(fun() ->
             {ok, Offered} = call(Cluster, B, Gateway, {get_workers, store}),
             length(Offered) >= length(Workers)
         end)
     end || Gateway <- Gateways],
    [?assertMatch({executed, Count} when Count > 0, stop_background(Load)) || Load <- Executing],
    {registered, Registered} = stop_background(Registering),
    ?assert(length(Registered) > 0),
    await_offered(Cluster, Gateways, Workers ++ Registered).

all_gateways_killed_at_once_lose_nothing(Config) ->
    {Cluster, Gateways, [A | _]} = ready(Config),
    Workers = [worker(Cluster, A) || _ <- lists:seq(1, 200)],
    Register = fun(Gateway) -> fun() ->
        Requests = [gen_server:send_request({?REGISTRY, Gateway}, {register, store, Worker}) || Worker <- Workers],
        [gen_server:wait_response(Request, ?CLIENT_MS) || Request <- Requests]
    end end,
    ?assertEqual([{reply, ok} || _ <- Workers], gater_cluster:on(Cluster, A, Register(hd(Gateways)))),
    {ok, Before} = call(Cluster, A, hd(Gateways), {get_workers, store}),
    ?assertEqual(lists:sort(Workers), lists:sort([Worker || {_, Worker} <- Before])),
    [gater_cluster:kill(Cluster, Gateway) || Gateway <- Gateways],
    [gater_cluster:up(Cluster, Gateway) || Gateway <- Gateways],
    await_offered(Cluster, Gateways, [Worker || {_, Worker} <- Before]),
    gater_cluster:settle(Cluster).

%%% Members that change

a_wiped_gateway_waits_until_it_is_let_in_as_a_new_member(Config) ->
    {Cluster, Gateways, [A | _]} = ready(Config),
    Worker = worker(Cluster, A),
    Leader = gater_cluster:leader(Cluster),
    [Wiped, Third] = Gateways -- [Leader],
    ?assertEqual(ok, call(Cluster, A, Leader, {register, store, Worker})),
    await_offered(Cluster, Gateways, [Worker]),
    #{id := OldId} = gater_cluster:status(Cluster, Wiped),
    #{members := Members} = gater_cluster:status(Cluster, Leader),
    gater_cluster:kill(Cluster, Wiped),
    gater_cluster:wipe(Cluster, Wiped),
    gater_cluster:up(Cluster, Wiped),
    Advice = list_to_binary(["cluster add ", atom_to_list(Wiped)]),
    %% It says what to do, and does nothing by itself.
    gater_harness:until(fun() -> binary:match(gater_cluster:log(Cluster, Wiped), Advice) =/= nomatch end),
    #{id := NewId, role := waiting} = gater_cluster:status(Cluster, Wiped),
    ?assertNotEqual(OldId, NewId),
    ids(Members) =:= ids(maps:get(members, gater_cluster:status(Cluster, Leader)))
        orelse ct:fail({let_in, gater_cluster:status(Cluster, Leader)}),
    %% What it keeps counts for nothing: without the third there is no majority.
    gater_cluster:kill(Cluster, Third),
    ?assertEqual({error, no_quorum}, call(Cluster, A, Leader, {register, other, Worker})),
    gater_cluster:up(Cluster, Third),
    gater_harness:until(fun() -> call(Cluster, A, Leader, {register, other, Worker}) =:= ok end),
    #{role := waiting} = gater_cluster:status(Cluster, Wiped),
    {1, Refusal} = gater_cluster:command(Cluster, Leader, ["add", "nobody@127.0.0.1"]),
    ?assertNotEqual("", Refusal),
    {Code, Text} = gater_cluster:command(Cluster, Leader, ["add", atom_to_list(Wiped)]),
    ?assertEqual({0, "done\n"}, {Code, Text}),
    await_voters(Cluster, Leader, Gateways),
    #{members := After} = gater_cluster:status(Cluster, Leader),
    ?assert(lists:member(NewId, ids(After))),
    ?assertNot(lists:member(OldId, ids(After))),
    gater_cluster:settle(Cluster),
    await_offered(Cluster, Gateways, [Worker]),
    %% And now it is one.
    gater_cluster:kill(Cluster, Leader),
    Another = worker(Cluster, A),
    ?assertEqual(ok, gater_cluster:on(Cluster, A, fun() ->
        insist([Wiped], {register, store, Another}, ?GENEROUS_MS) end)),
    gater_cluster:up(Cluster, Leader),
    await_offered(Cluster, Gateways, [Worker, Another]).

a_new_gateway_is_brought_up_to_date_by_a_snapshot(Config) ->
    {Cluster, Gateways, [A | _]} = ready(Config),
    Leader = gater_cluster:leader(Cluster),
    [New, _] = Gateways -- [Leader],
    gater_cluster:kill(Cluster, New),
    gater_cluster:wipe(Cluster, New),
    %% Many registrations, which makes it big, and more entries than stay in a log.
    Workers = gater_cluster:on(Cluster, A, fun() ->
        Pids = [gater_agent:start() || _ <- lists:seq(1, ?MANY)],
        Requests = [gen_server:send_request({?REGISTRY, Leader}, {register, store, Pid}) || Pid <- Pids],
        [{reply, ok} = gen_server:wait_response(Request, 60000) || Request <- Requests],
        [ok = gen_server:call({?REGISTRY, Leader}, {What, other, hd(Pids)}, ?CLIENT_MS)
         || _ <- lists:seq(1, ?ENTRIES div 2), What <- [register, unregister]],
        Pids
    end),
    gater_harness:until(fun() -> snapshot_bytes(Cluster, Leader) > 0 end),
    gater_cluster:up(Cluster, New),
    ?assertEqual({0, "done\n"}, gater_cluster:command(Cluster, Leader, ["add", atom_to_list(New)])),
    await_voters(Cluster, Leader, Gateways),
    gater_cluster:settle(Cluster),
    ?assert(snapshot_bytes(Cluster, New) > 0),
    {ok, Offered} = call(Cluster, A, Leader, {get_workers, store}),
    ?assertEqual(lists:sort(Workers), lists:sort([Worker || {_, Worker} <- Offered])),
    gater_harness:until(fun() -> call(Cluster, A, New, {get_workers, store}) =:= {ok, Offered} end),
    %% And after a start from it.
    gater_cluster:kill(Cluster, New),
    gater_cluster:up(Cluster, New),
    gater_harness:until(fun() -> call(Cluster, A, New, {get_workers, store}) =:= {ok, Offered} end).

a_cluster_grows_and_shrinks_and_a_gateway_is_replaced_under_load(Config) ->
    {Cluster, Gateways = [One, Two, Three], _} = ready(Config),
    gater_nemesis:start_load(Cluster, grow),
    Demands = #{well_ms => 60000, across => true},
    Four = gater_cluster:add_gateway(Cluster, #{}),
    ?assertEqual({0, "done\n"}, gater_cluster:command(Cluster, One, ["add", atom_to_list(Four)])),
    await_voters(Cluster, One, Gateways ++ [Four]),
    Seen1 = well(Cluster, #{}, Demands),
    %% Asked of one that is no leader, most likely; the one that goes may lead.
    ?assertEqual({0, "done\n"}, gater_cluster:command(Cluster, Four, ["remove", atom_to_list(Two)])),
    await_voters(Cluster, One, [One, Three, Four]),
    _ = gater_cluster:terminate(Cluster, Two),
    gater_cluster:retire(Cluster, Two),
    Seen2 = well(Cluster, Seen1, Demands),
    %% Its disk is lost: another takes its place under its name.
    gater_cluster:kill(Cluster, Three),
    gater_cluster:wipe(Cluster, Three),
    gater_cluster:up(Cluster, Three),
    ?assertEqual({0, "done\n"}, gater_cluster:command(Cluster, Four, ["add", atom_to_list(Three)])),
    await_voters(Cluster, One, [One, Three, Four]),
    _ = well(Cluster, Seen2, Demands),
    %% It meets the others one after the other.
    gater_harness:until(fun() ->
        element(1, gater_cluster:command(Cluster, Three, ["status"])) =:= 0
    end, 60000),
    {0, Status} = gater_cluster:command(Cluster, Three, ["status"]),
    [?assertNotEqual(nomatch, string:find(Status, atom_to_list(Member))) || Member <- [One, Three, Four]],
    ?assertEqual(nomatch, string:find(Status, atom_to_list(Two))).

%%% Cuts

a_minority_answers_look_ups_and_writes_nothing(Config) ->
    {Cluster, Gateways, _} = ready(Config),
    [Cut, _] = Gateways -- [gater_cluster:leader(Cluster)],
    minority(Cluster, Gateways, Cut).

a_leader_in_a_minority_writes_nothing_and_nothing_is_lost(Config) ->
    {Cluster, Gateways, _} = ready(Config),
    minority(Cluster, Gateways, gater_cluster:leader(Cluster)).

%% One gateway and one node on one side, the others on the other.
minority(Cluster, Gateways, Cut) ->
    [Near, Far] = gater_cluster:beams(Cluster),
    Rest = Gateways -- [Cut],
    OnNear = worker(Cluster, Near),
    OnFar = worker(Cluster, Far),
    ?assertEqual(ok, call(Cluster, Near, Cut, {register, store, OnNear})),
    ?assertEqual(ok, call(Cluster, Far, hd(Rest), {register, store, OnFar})),
    await_offered(Cluster, Gateways, [OnNear, OnFar]),
    gater_cluster:split(Cluster, [Cut, Near], [Far | Rest]),
    %% Not only silent: everybody knows.
    gater_cluster:sever(Cluster, [Cut], [Far | Rest]),
    gater_cluster:sever(Cluster, [Near], Rest),
    %% What it may do is refused, and in time; what it knows it tells.
    Refused = worker(Cluster, Near),
    ?assertEqual({error, no_quorum}, call(Cluster, Near, Cut, {register, store, Refused})),
    ?assertEqual({error, no_quorum}, call(Cluster, Near, Cut, {unregister, store, OnNear})),
    {ok, Offered} = call(Cluster, Near, Cut, {get_workers, store}),
    ?assert(lists:member({Near, OnNear}, Offered)),
    %% It is kept there that the other node's worker is registered, though it cannot be reached now.
    {ok, #{registrations := 2}} = call(Cluster, Near, {?CLUSTER, Cut}, status),
    %% The others go on.
    New = worker(Cluster, Far),
    ?assertEqual(ok, gater_cluster:on(Cluster, Far, fun() ->
        insist(Rest, {register, store, New}, ?GENEROUS_MS) end)),
    {ok, #{registrations := 3}} = call(Cluster, Far, {?CLUSTER, hd(Rest)}, status),
    gater_cluster:mend(Cluster),
    gater_cluster:settle(Cluster),
    %% One history: what was refused may have been written or not, and the same everywhere.
    gater_harness:until(fun() -> case [call(Cluster, Near, G, {get_workers, store}) || G <- Gateways] of
        [{ok, Same}, {ok, Same}, {ok, Same}] ->
            [Far, Far] =:= [Node || {Node, Worker} <- Same, lists:member(Worker, [OnFar, New])]
                andalso Same -- [{Near, OnNear}, {Far, OnFar}, {Far, New}, {Near, Refused}] =:= [];
        _ -> false
    end end),
    %% And what is written now counts.
    ?assertEqual(ok, gater_cluster:on(Cluster, Near, fun() ->
        insist([Cut], {unregister, store, Refused}, ?GENEROUS_MS) end)),
    ?assertEqual(ok, gater_cluster:on(Cluster, Near, fun() ->
        insist([Cut], {register, store, OnNear}, ?GENEROUS_MS) end)),
    gater_harness:until(fun() -> lists:all(fun(Gateway) ->
        {ok, Now} = call(Cluster, Near, Gateway, {get_workers, store}),
        lists:sort([OnNear, OnFar, New]) =:= lists:sort([Worker || {_, Worker} <- Now])
    end, Gateways) end).

a_node_that_one_gateway_reaches_keeps_its_workers(Config) ->
    {Cluster, Gateways = [One, Two, Three], [A, B]} = ready(Config),
    OnA = worker(Cluster, A),
    OnB = worker(Cluster, B),
    [?assertEqual(ok, call(Cluster, A, One, {register, store, Worker})) || Worker <- [OnA, OnB]],
    await_offered(Cluster, Gateways, [OnA, OnB]),
    gater_cluster:split(Cluster, [B], [One, Two]),
    gater_cluster:sever(Cluster, [B], [One, Two]),
    %% Who cannot reach it offers it no more; who can still does.
    await_offered(Cluster, A, [One, Two], [OnA]),
    %% Longer than the grace, as the cluster itself shows: another node's are given up meanwhile.
    Doomed = worker(Cluster, A),
    ?assertEqual(ok, call(Cluster, A, Three, {register, other, Doomed})),
    gater_cluster:kill(Cluster, A),
    gater_harness:until(fun() -> registrations(Cluster, B, Three) =:= 1 end),
    ?assertEqual(offered([OnB]), call(Cluster, B, Three, {get_workers, store})),
    gater_cluster:mend(Cluster),
    await_offered(Cluster, B, Gateways, [OnB]),
    [?assertEqual(1, registrations(Cluster, B, Gateway)) || Gateway <- Gateways].

%%% Loads: functions that run on a node until they are told to stop

in_background(Cluster, Beam, Fun) ->
    {Cluster, Beam, gater_cluster:on(Cluster, Beam, fun() ->
        spawn(fun() -> Result = Fun(fun() -> receive stop -> true after 0 -> false end end),
                       receive {result, To, Ref} -> To ! {Ref, Result} end end)
    end)}.

%% Its result, or the failure it ended with.
stop_background({Cluster, Beam, Pid}) ->
    gater_cluster:on(Cluster, Beam, fun() ->
        Ref = monitor(process, Pid),
        Pid ! stop,
        Pid ! {result, self(), Ref},
        receive
            {Ref, Result} -> Result;
            {'DOWN', Ref, _, _, Reason} -> {failed, Reason}
        end
    end).

look_up_until(Stop, Gateways, Known, Count) ->
    Answers = [gen_server:call({?REGISTRY, Gateway}, {get_workers, store}, ?CLIENT_MS) || Gateway <- Gateways],
    case [Answer || Answer = {Tag, Workers} <- Answers, Tag =/= ok orelse Known -- Workers =/= []] of
        [] -> case Stop() of true -> {looked_up, Count + 1}; false -> look_up_until(Stop, Gateways, Known, Count + 1) end;
        Wrong -> {wrong, Count, Wrong}
    end.

%% As a client with a list of gateways does: the next one when one fails it.
execute_until(Stop, Gateways, Count) ->
    case execute(Gateways, Count) of
        ok -> case Stop() of true -> {executed, Count + 1}; false -> execute_until(Stop, Gateways, Count + 1) end;
        Failed -> {failed, Count, Failed}
    end.

execute(Gateways, Nth) -> execute(Gateways, Nth, []).

execute([], _, Reasons) ->
    {failed, Reasons};
execute([Gateway | Rest], Nth, Reasons) ->
    try gen_server:call({?REGISTRY, Gateway}, {get_workers, store}, ?CLIENT_MS) of
        %% One that is just starting has not reached the nodes yet.
        {ok, []} -> execute(Rest, Nth, [{Gateway, no_workers} | Reasons]);
        {ok, Workers} ->
            {_, Worker} = lists:nth(Nth rem length(Workers) + 1, Workers),
            done = gater_agent:run(Worker, fun() -> done end),
            ok
    catch
        exit:{Reason, _} -> execute(Rest, Nth, [{Gateway, Reason} | Reasons])
    end.

register_until(Stop, Gateways, Registered) ->
    Worker = gater_agent:start(),
    ok = insist(Gateways, {register, store, Worker}, ?GENEROUS_MS),
    case Stop() of
        true -> {registered, lists:reverse([Worker | Registered])};
        false -> register_until(Stop, Gateways, [Worker | Registered])
    end.

%% Tries one gateway after the other until it is done.
insist(Gateways, Request, WithinMs) ->
    insist(Gateways, Request, erlang:monotonic_time(millisecond) + WithinMs, []).

insist([Gateway | Rest], Request, Deadline, Refusals) ->
    Answer = try gen_server:call({?REGISTRY, Gateway}, Request, ?CLIENT_MS) catch exit:{Reason, _} -> {exit, Reason} end,
    case Answer of
        ok -> ok;
        _ ->
            case erlang:monotonic_time(millisecond) > Deadline of
                true -> {never, lists:reverse([{Gateway, Answer} | Refusals])};
                false -> insist(Rest ++ [Gateway], Request, Deadline, [{Gateway, Answer} | Refusals])
            end
    end.

%%% Small things

cluster(Config) ->
    Cluster = value(cluster, Config),
    {Cluster, gater_cluster:gateways(Cluster), gater_cluster:beams(Cluster)}.

%% Founded and led.
ready(Config) ->
    {Cluster, Gateways, Beams} = cluster(Config),
    await_voters(Cluster, hd(Gateways), Gateways),
    gater_cluster:settle(Cluster),
    {Cluster, Gateways, Beams}.

worker(Cluster, Beam) -> gater_cluster:on(Cluster, Beam, fun gater_agent:start/0).

call(Cluster, Beam, {Name, Gateway}, Request) ->
    gater_cluster:call(Cluster, Beam, {Name, Gateway}, Request, ?CLIENT_MS);
call(Cluster, Beam, Gateway, Request) ->
    call(Cluster, Beam, {?REGISTRY, Gateway}, Request).

offered(Workers) -> {ok, [{node(Worker), Worker} || Worker <- Workers]}.

await_offered(Cluster, Gateways, Workers) ->
    await_offered(Cluster, hd(gater_cluster:beams(Cluster)), Gateways, Workers).

await_offered(Cluster, Beam, Gateways, Workers) ->
    Expected = offered(Workers),
    gater_harness:until(fun() -> lists:all(fun(Gateway) ->
        call(Cluster, Beam, Gateway, {get_workers, store}) =:= Expected
    end, Gateways) end).

await_registrations(Cluster, Gateways, Count) ->
    gater_harness:until(fun() -> lists:all(fun(Gateway) ->
        case gater_cluster:status(Cluster, Gateway) of
            #{registrations := Count} -> true;
            _ -> false
        end
    end, Gateways) end).

await_voters(Cluster, Gateway, Voters) ->
    gater_harness:until(fun() ->
        case gater_cluster:status(Cluster, Gateway) of
            #{members := Members} ->
                lists:sort([{Node, voter, true} || Node <- Voters]) =:=
                    lists:sort([{Node, Role, Connected}
                                || #{node := Node, role := Role, connected := Connected} <- Members]);
            undefined -> false
        end
    end).

registrations(Cluster, Beam, Gateway) ->
    case call(Cluster, Beam, {?CLUSTER, Gateway}, status) of
        {ok, #{registrations := Count}} -> Count;
        Other -> Other
    end.

snapshot_bytes(Cluster, Gateway) ->
    filelib:file_size(filename:join([gater_harness:dir(gater_cluster:world(Cluster)),
                                     atom_to_list(Gateway), "registry.snapshot"])).

ids(Members) -> lists:sort([Id || #{id := Id} <- Members]).

well(Cluster, Seen, Demands) ->
    {#{violations := Violations}, Next} = gater_nemesis:judge(Cluster, Seen, Demands),
    ?assertEqual([], Violations),
    Next.

value(Key, Config) -> proplists:get_value(Key, Config).
