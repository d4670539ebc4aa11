%% @doc The replicated registry against Ra (see {@link ra_registry}) with every acknowledged
%% command on the same disk, and its look-ups against the gateway in Erlang.
%%
%% Clients of both are processes of one BEAM, apart from the servers.
-module(bench_registry).
-behaviour(bench).

-export([title/0, run/1]).

-define(CLIENTS, 32).
-define(STORES, 100).

-spec title() -> string().
title() -> "the registry".

-spec run(bench:options()) -> [bench:row() | bench:skipped()].
run(#{quick := Quick} = All) ->
    Ra = ra(),
    Options = case Quick of
        true -> All;
        false -> All#{rounds := 3}
    end,
    Ours = case Options of
        #{gateway := plain} -> ra;
        #{gateway := Program} -> {gateway, Program}
    end,
    lookups(Options) ++ against_ra(Ours, Ra, Options).

against_ra(_, none, _) ->
    [{skip, "rows against Ra: scripts/ra could not fetch it"}];
against_ra(Ours, Ra, Options) ->
    Three = case Options of
        #{quick := true} ->
            [fun() -> three_voters(Ours, Ra, Options) end];
        #{} ->
            [fun() -> commands(Ours, Ra, Options, 3) end, fun() -> fail_overs(Ours, Ra, Options) end]
    end,
    lists:append([part(Part) || Part <- [
        fun() -> commands(Ours, Ra, Options, 1) end | Three]
        ++ [fun() -> starts(Ours, Ra, Options) end]]).

%% One that fails does not take the others' rows along.
part(Part) ->
    try
        Part()
    catch
        Class:Reason:Stack ->
            io:format(standard_error, "NOT RUN, a part of the registry: ~tp~n", [{Class, Reason, Stack}]),
            [{skip, "a part failed: " ++ lists:flatten(io_lib:format("~P", [Reason, 8]))}]
    end.

%% The script says on standard error why there is none.
ra() ->
    Port = open_port({spawn_executable, "scripts/ra"}, [{line, 1000}, exit_status]),
    receive
        {Port, {data, {eol, Dir}}} -> receive {Port, {exit_status, 0}} -> Dir end;
        {Port, {exit_status, _}} -> none
    end.

%% Register and unregister: all clients, and one alone.
commands(Ours, Ra, #{milliseconds := Milliseconds} = Options, Voters) ->
    Measure = fun(Rig, Kind, Leader) -> commands_at(Rig, Kind, Leader, Milliseconds) end,
    #{ours := A, theirs := B} =
        on_clusters(Ra, #{ours => Ours, theirs => ra}, Options, Voters, Measure),
    command_rows(Voters, A, B).

commands_at(Rig, Kind, Leader, Milliseconds) ->
    Target = {protocol(Kind), [Leader]},
    {_, P50} = cycles(Rig, Target, 1, Milliseconds),
    {Many, _} = cycles(Rig, Target, ?CLIENTS, Milliseconds),
    #{p50 => P50, many => Many}.

command_rows(Voters, A, B) ->
    What = case Voters of 1 -> "1 voter"; 3 -> "3 voters, at the leader" end,
    [#{what => io_lib:format("register + unregister, ~b clients, ~ts", [?CLIENTS, What]),
       unit => "commands/s", better => more, target => 2, against => "Ra",
       ours => [Many || #{many := Many} <- A], theirs => [Many || #{many := Many} <- B]},
     #{what => "register + unregister, one client, " ++ What ++ ", p50",
       unit => "us", better => less, target => 1.0, against => "Ra",
       ours => [P50 || #{p50 := P50} <- A], theirs => [P50 || #{p50 := P50} <- B]}].

%% Measures at the leaders of clusters of either kind, in turns and on fresh ones each time. The quick
%% form starts one of each, and the second when the first is gone: servers at rest take time of the
%% processors as well.
on_clusters(Ra, Kinds, #{quick := true, rounds := Rounds}, Voters, Measure) ->
    maps:map(fun(_, Kind) ->
        bench_registry_rig:with(Ra, fun(Rig) ->
            Leader = bench_registry_rig:await_leader(Rig, bench_registry_rig:cluster(Rig, Kind, Voters)),
            [Measure(Rig, Kind, Leader) || _ <- lists:seq(1, Rounds)]
        end)
    end, Kinds);
on_clusters(Ra, Kinds, Options, Voters, Measure) ->
    bench:alternate(Options, maps:map(fun(_, Kind) ->
        fun() ->
            bench_registry_rig:with(Ra, fun(Rig) ->
                Cluster = bench_registry_rig:cluster(Rig, Kind, Voters),
                Measure(Rig, Kind, bench_registry_rig:await_leader(Rig, Cluster))
            end)
        end
    end, Kinds)).

cycles(Rig, Target, Clients, Milliseconds) ->
    bench_registry_rig:call(Rig, cycles, [Target, Clients, Milliseconds], Milliseconds).

lookups(Options) ->
    lists:append([lookups(Clients, Workers, Target, Options)
                  || {Clients, Workers, Target} <- [{1, 1000, none}, {?CLIENTS, 1000, 2},
                                                    {?CLIENTS, 0, none}]]).

%% Without workers it is what a call takes at the least.
lookups(Clients, Workers, Target, #{milliseconds := Milliseconds, gateway := Gateway} = Options) ->
    Measure = fun(Rig, _, Node) ->
        {PerSecond, _} = bench_registry_rig:call(
            Rig, lookups, [{gateway, [Node]}, Clients, Workers, Milliseconds], Milliseconds),
        PerSecond
    end,
    Ours = case Gateway of plain -> plain; _ -> {gateway, Gateway} end,
    #{ours := A, theirs := B} =
        on_clusters(none, #{ours => Ours, theirs => plain}, Options, 1, Measure),
    Row = #{what => io_lib:format("get_workers of ~b by gen_server:call, clients: ~b",
                                  [Workers, Clients]),
            unit => "calls/s", better => more, against => "Erlang gateway", ours => A, theirs => B},
    [case Target of none -> Row; _ -> Row#{target => Target} end].

%% Killed with all those registrations and started again.
starts(Ours, Ra, #{quick := Quick} = Options) ->
    Count = case Quick of true -> 10000; false -> 100000 end,
    Measure = fun(Kind) ->
        fun() ->
            bench_registry_rig:with(Ra, fun(Rig) -> start(Rig, Kind, Count) end)
        end
    end,
    Rounds = case Quick of true -> 1; false -> 3 end,
    #{ours := A, theirs := B} = bench:alternate(Options#{rounds := Rounds},
                                                #{ours => Measure(Ours), theirs => Measure(ra)}),
    What = io_lib:format("start with ~b registrations: ", [Count]),
    Notes = [io_lib:format("~ts offered ~b of them again", [Who, Found])
             || {Who, Side} <- [{"this one", A}, {"Ra", B}], #{found := Found} <- Side, Found < Count],
    Note = lists:flatten(lists:join("; ", Notes)),
    [#{what => What ++ "first acknowledged command", unit => "ms", better => less,
       target => 0.5, against => "Ra", note => Note,
       ours => [Ms || #{ms := Ms} <- A], theirs => [Ms || #{ms := Ms} <- B]},
     #{what => What ++ "memory", unit => "MB", better => less, target => 0.5, against => "Ra",
       note => Note,
       ours => [MB || #{mb := MB} <- A], theirs => [MB || #{mb := MB} <- B]}].

start(Rig, Kind, Count) ->
    Cluster = bench_registry_rig:cluster(Rig, Kind, 1),
    [{Name, Server}] = maps:to_list(Cluster),
    Target = {protocol(Kind), [list_to_atom(Name)]},
    Count = bench_registry_rig:call(Rig, fill, [Target, Count, ?STORES, 120000], 120000),
    ok = bench_rig:kill(element(2, Server)),
    Started = os:system_time(nanosecond),
    {_, Running} = bench_registry_rig:restart(Rig, Server),
    Registered = bench_registry_rig:call(Rig, register_once, [Target], 60000),
    Found = bench_registry_rig:call(Rig, await_workers, [Target, Count, ?STORES, 30000], 30000),
    #{found => Found, ms => (Registered - Started) / 1.0e6, mb => settled(Running, []) / 1.0e6}.

%% Memory once it has stayed the same for a second, to a percent.
settled(Running, [Last, _, _, _, _ | _] = Samples) ->
    case lists:max(Samples) =< lists:min(Samples) * 1.01 of
        true -> Last;
        false -> settled(Running, lists:droplast(Samples))
    end;
settled(Running, Samples) ->
    timer:sleep(200),
    settled(Running, [bench_rig:resident_bytes(Running) | Samples]).

%% The leader of three is killed, again and again, and the dead one started.
fail_overs(Ours, Ra, _) ->
    [A, B] = [bench_registry_rig:with(Ra, fun(Rig) ->
        Cluster = bench_registry_rig:cluster(Rig, Kind, 3),
        fail_over(Rig, Kind, Cluster, 10)
    end) || Kind <- [Ours, ra]],
    fail_over_rows(A, B).

%% Commands and fail-overs of the same three servers, for the quick form.
three_voters(Ours, Ra, #{rounds := Rounds, milliseconds := Milliseconds}) ->
    [{A, FailedA}, {B, FailedB}] = [bench_registry_rig:with(Ra, fun(Rig) ->
        Cluster = bench_registry_rig:cluster(Rig, Kind, 3),
        Leader = bench_registry_rig:await_leader(Rig, Cluster),
        {[commands_at(Rig, Kind, Leader, Milliseconds) || _ <- lists:seq(1, Rounds)],
         fail_over(Rig, Kind, Cluster, Rounds)}
    end) || Kind <- [Ours, ra]],
    command_rows(3, A, B) ++ fail_over_rows(FailedA, FailedB).

fail_over_rows(A, B) ->
    [#{what => "leader of 3 killed: first acknowledged registration", unit => "ms",
       better => less, target => 1.5, against => "Ra", ours => A, theirs => B}].

fail_over(_, _, _, 0) ->
    [];
fail_over(Rig, Kind, Cluster, Rounds) ->
    Leader = bench_registry_rig:await_leader(Rig, Cluster),
    Name = atom_to_list(Leader),
    #{Name := {_, #{os_pid := OsPid}} = Dead} = Cluster,
    Left = {protocol(Kind), [list_to_atom(Other) || Other <- maps:keys(Cluster), Other =/= Name]},
    Ms = bench_registry_rig:call(Rig, fail_over, [Left, OsPid], 60000),
    Again = Cluster#{Name := bench_registry_rig:restart(Rig, Dead)},
    [Ms | fail_over(Rig, Kind, Again, Rounds - 1)].

protocol({gateway, _}) -> gateway;
protocol(ra) -> ra.
