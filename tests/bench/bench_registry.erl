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

-spec run(bench:options()) -> [bench:row()].
run(#{quick := Quick} = All) ->
    Ra = ra(),
    Options = case Quick of
        true -> All#{rounds := 1, milliseconds := 700};
        false -> All#{rounds := 3}
    end,
    Ours = case Options of
        #{gateway := plain} -> ra;
        #{gateway := Program} -> {gateway, Program}
    end,
    lookups(Options) ++ against_ra(Ours, Ra, Options).

against_ra(_, none, _) ->
    [];
against_ra(Ours, Ra, Options) ->
    lists:append([part(Part) || Part <- [
        fun() -> commands(Ours, Ra, Options, 1) end,
        fun() -> commands(Ours, Ra, Options, 3) end,
        fun() -> fail_overs(Ours, Ra, Options) end,
        fun() -> starts(Ours, Ra, Options) end]]).

%% One that fails does not take the others' rows along.
part(Part) ->
    try
        Part()
    catch
        Class:Reason:Stack ->
            io:format(standard_error, "NOT RUN, a part of the registry: ~tp~n", [{Class, Reason, Stack}]),
            []
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
    Measure = fun(Kind) ->
        fun() ->
            bench_registry_rig:with(Ra, fun(Rig) ->
                Cluster = bench_registry_rig:cluster(Rig, Kind, Voters),
                Target = {protocol(Kind), [bench_registry_rig:await_leader(Rig, Cluster)]},
                {One, P50} = cycles(Rig, Target, 1, Milliseconds),
                {Many, _} = cycles(Rig, Target, ?CLIENTS, Milliseconds),
                #{one => One, p50 => P50, many => Many}
            end)
        end
    end,
    #{ours := A, theirs := B} =
        bench:alternate(Options, #{ours => Measure(Ours), theirs => Measure(ra)}),
    What = case Voters of 1 -> "1 voter"; 3 -> "3 voters, at the leader" end,
    [#{what => io_lib:format("register + unregister, ~b clients, ~ts", [?CLIENTS, What]),
       unit => "commands/s", better => more, target => 2, against => "Ra",
       ours => [Many || #{many := Many} <- A], theirs => [Many || #{many := Many} <- B]},
     #{what => "register + unregister, one client, " ++ What ++ ", p50",
       unit => "us", better => less, target => 1.0, against => "Ra",
       ours => [P50 || #{p50 := P50} <- A], theirs => [P50 || #{p50 := P50} <- B]}].

cycles(Rig, Target, Clients, Milliseconds) ->
    bench_registry_rig:call(Rig, cycles, [Target, Clients, Milliseconds], Milliseconds).

lookups(#{milliseconds := Milliseconds, gateway := Gateway} = Options) ->
    Measure = fun(Kind) ->
        fun() ->
            bench_registry_rig:with(none, fun(Rig) ->
                Cluster = bench_registry_rig:cluster(Rig, Kind, 1),
                Target = {gateway, [bench_registry_rig:await_leader(Rig, Cluster)]},
                {PerSecond, _} = bench_registry_rig:call(
                    Rig, lookups, [Target, ?CLIENTS, 1000, Milliseconds], Milliseconds),
                PerSecond
            end)
        end
    end,
    Ours = case Gateway of plain -> plain; _ -> {gateway, Gateway} end,
    #{ours := A, theirs := B} =
        bench:alternate(Options, #{ours => Measure(Ours), theirs => Measure(plain)}),
    [#{what => io_lib:format("get_workers of 1,000 by gen_server:call, ~b clients", [?CLIENTS]),
       unit => "calls/s", better => more, target => 2, against => "Erlang gateway",
       ours => A, theirs => B}].

%% Killed with all those registrations and started again.
starts(Ours, Ra, #{quick := Quick} = Options) ->
    Count = case Quick of true -> 10000; false -> 100000 end,
    Measure = fun(Kind) ->
        fun() ->
            bench_registry_rig:with(Ra, fun(Rig) -> start(Rig, Kind, Count) end)
        end
    end,
    #{ours := A, theirs := B} =
        bench:alternate(Options, #{ours => Measure(Ours), theirs => Measure(ra)}),
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
fail_overs(Ours, Ra, #{quick := Quick}) ->
    Rounds = case Quick of true -> 3; false -> 10 end,
    [A, B] = [bench_registry_rig:with(Ra, fun(Rig) ->
        Cluster = bench_registry_rig:cluster(Rig, Kind, 3),
        fail_over(Rig, Kind, Cluster, Rounds)
    end) || Kind <- [Ours, ra]],
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
