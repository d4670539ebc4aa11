%% @doc What the benchmarks of the registry run on: servers of one kind, each a program with a
%% name and a data directory that it is started on again, and a BEAM with the clients.
-module(bench_registry_rig).

-export([with/2, call/4, cluster/3, start/2, restart/2, await_leader/2]).
-export_type([rig/0, kind/0, server/0, cluster/0]).

-type rig() :: #{client := pid(), scratch := bench_rig:scratch(), ra := file:filename() | none}.
%% This gateway's program, Ra, or the gateway in Erlang, which keeps nothing.
-type kind() :: {gateway, file:filename()} | ra | plain.
-type server() :: #{kind := kind(), name := string(), members := [string()]}.
%% Servers that run, by name.
-type cluster() :: #{string() => {server(), bench_rig:gateway()}}.

-define(CALL_MS, 120000).

%% @doc Runs `Fun' with a fresh BEAM for the clients, and takes everything down again. `Ra'
%% is the folder of its applications, if there is one.
-spec with(file:filename() | none, fun((rig()) -> Result)) -> Result.
with(Ra, Fun) ->
    bench_rig:scratch(fun(#{keep := Keep} = Scratch) ->
        Client = Keep(bench_rig:peer(bench_rig:name("clients"), ["+P", "1000000" | ra_paths(Ra)],
                                     Scratch)),
        Fun(#{client => Client, scratch => Scratch, ra => Ra})
    end).

%% @doc Calls a function of the clients.
-spec call(rig(), atom(), [term()], pos_integer()) -> term().
call(#{client := Client}, Function, Arguments, Milliseconds) ->
    bench_rig:call(Client, bench_registry_load, Function, Arguments, Milliseconds + ?CALL_MS).

%% @doc Starts so many servers that are voters of one cluster, on new data directories. The
%% clients are connected to all of them.
-spec cluster(rig(), kind(), pos_integer()) -> cluster().
cluster(Rig, Kind, Size) ->
    Names = [bench_rig:name(role(Kind) ++ integer_to_list(N)) ++ "@127.0.0.1"
             || N <- lists:seq(1, Size)],
    %% All start at the same time.
    Launched = [launch(Rig, #{kind => Kind, name => Name, members => Names}) || Name <- Names],
    Cluster = maps:from_list([connect(Rig, Server) || Server <- Launched]),
    _ = Kind =:= ra andalso elect(Rig, [list_to_atom(Name) || Name <- Names]),
    await_leader(Rig, Cluster),
    Cluster.

role({gateway, _}) -> "gater";
role(Kind) -> atom_to_list(Kind).

%% Ra's servers wait to be told who stands for election first.
elect(_, [_]) ->
    ok;
elect(#{client := Client}, [First | _] = Nodes) ->
    _ = [pong = bench_rig:call(Client, erpc, call, [From, net_adm, ping, [To]], ?CALL_MS)
         || From <- Nodes, To <- Nodes, From =/= To],
    ok = bench_rig:call(Client, ra, trigger_election, [{ra_registry, First}], ?CALL_MS).

%% @doc Starts a server; when it says that it is ready.
-spec start(rig(), server()) -> {string(), {server(), bench_rig:gateway()}}.
start(Rig, Server) -> connect(Rig, launch(Rig, Server)).

launch(#{scratch := Scratch} = Rig, #{kind := Kind, name := Name} = Server) ->
    #{dir := Dir, keep := Keep} = Scratch,
    {Executable, Arguments} = command(Kind, Server, filename:join([Dir, Name]), Rig),
    {Server, Keep(bench_rig:launch(Name, Executable, Arguments, filename:join(Dir, Name ++ ".log")))}.

connect(#{client := Client}, {#{name := Name} = Server, #{node := Node} = Running}) ->
    ok = bench_rig:await_ready(Running),
    true = bench_rig:call(Client, net_kernel, connect_node, [Node], ?CALL_MS),
    {Name, {Server, Running}}.

%% @doc Kills a server with SIGKILL, if it is not dead already, and starts it again on what it
%% left on the disk.
-spec restart(rig(), {server(), bench_rig:gateway()}) -> {server(), bench_rig:gateway()}.
restart(Rig, {Server, Running}) ->
    ok = bench_rig:kill(Running),
    {_, Again} = start(Rig, Server),
    Again.

%% @doc Waits for a leader that all servers of the cluster know: the node.
-spec await_leader(rig(), cluster()) -> node().
await_leader(Rig, Cluster) ->
    [#{kind := Kind} | _] = [Server || {Server, _} <- maps:values(Cluster)],
    case Kind of
        plain -> list_to_atom(hd(maps:keys(Cluster)));
        ra -> call(Rig, leader, [{ra, nodes_of(Cluster)}], 0);
        {gateway, _} when map_size(Cluster) =:= 1 -> list_to_atom(hd(maps:keys(Cluster)));
        {gateway, _} -> call(Rig, leader, [{gateway, nodes_of(Cluster)}], 0)
    end.

nodes_of(Cluster) -> [list_to_atom(Name) || Name <- maps:keys(Cluster)].

command({gateway, Program}, #{name := Name, members := Members}, Dir, #{scratch := Scratch}) ->
    {filename:absname(Program),
     ["start", "--name", Name, "--cookie-file", bench_rig:cookie_file(Scratch),
      "--data-dir", Dir, "--embedded"]
     ++ case Members of [_] -> []; _ -> ["--cluster", lists:join($,, Members)] end};
command(plain, #{name := Name}, _, #{scratch := #{cookie := Cookie}}) ->
    {os:find_executable("erl"),
     ["-noshell", "-name", Name, "-s", "plain_gateway" | bench_rig:beam_arguments(Cookie)]};
command(ra, #{name := Name, members := Members}, Dir, #{scratch := Scratch, ra := Ra}) ->
    #{cookie := Cookie} = Scratch,
    {os:find_executable("erl"),
     ["-noshell", "-name", Name, "-s", "ra_registry"] ++ bench_rig:beam_arguments(Cookie)
     ++ ra_paths(Ra) ++ ["-extra", Dir | Members]}.

ra_paths(none) ->
    [];
ra_paths(Ra) ->
    lists:append([["-pa", filename:join([Ra, Application, "ebin"])]
                  || Application <- ["ra", "aten", "gen_batch_server", "seshat"]]).
