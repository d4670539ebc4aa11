%% @doc The alternative for consensus: the registry as a state machine of Ra, RabbitMQ's Raft,
%% one server on each node that runs this. `scripts/ra' says where Ra comes from.
%%
%% Commands are those of the gateway's registry: `{register, Store, Pid}', `{unregister, Store,
%% Pid}'; Ra's leader monitors the workers. Ra's settings are its own defaults: an acknowledged
%% command is in the write-ahead log of a majority, after `fdatasync'.
-module(ra_registry).

-export([start/0, call/2, call/3, leader/1]).
%% Called by Ra: its behaviour ra_machine.
-export([init/1, apply/3, state_enter/2]).

-type index() :: pos_integer().
-record(registry, {
    %% Workers with the place of their registration in the log.
    stores = #{} :: #{atom() => #{pid() => index()}},
    pids = #{} :: #{pid() => [atom()]}
}).

-define(NAME, ?MODULE).
%% How many commands apart the state is offered as a snapshot: Ra writes none sooner.
-define(SNAPSHOT_EVERY, 4096).
-define(START_MS, 60000).

%% @doc Entry of a node of its own: `-extra DIR NODE...' name the data directory and all members,
%% this node among them. Says `ready' when the server runs, at one that is alone when it
%% leads, and stops at the end of standard input.
-spec start() -> ok.
start() ->
    [Dir | Names] = init:get_plain_arguments(),
    Nodes = [list_to_atom(Name) || Name <- Names],
    logger:set_primary_config(level, error),
    ok = application:load(ra),
    ok = application:set_env(ra, data_dir, Dir),
    {ok, _} = application:ensure_all_started(ra),
    {ok, _} = ra_system:start_default(),
    Server = {?NAME, node()},
    case ra:restart_server(default, Server) of
        ok ->
            ok;
        {error, _} ->
            Machine = {module, ?MODULE, #{}},
            ok = ra:start_server(default, atom_to_binary(?NAME), Server, Machine,
                                 [{?NAME, Node} || Node <- Nodes])
    end,
    ok = keep_name(),
    case Nodes of
        [_] ->
            ok = ra:trigger_election(Server),
            {ok, _, _} = ra:members(Server, ?START_MS);
        _ ->
            ok
    end,
    io:format("ready node=~s port=0~n", [node()]),
    spawn(fun stop_at_end_of_input/0),
    ok.

%% Which of the folders is this server's is in a table that Ra leaves to be saved once nobody has
%% asked it for half a second. A server that is killed sooner would start as a new and empty one.
keep_name() ->
    #{names := #{directory_rev := Table}} = ra_system:fetch(default),
    dets:sync(Table).

stop_at_end_of_input() ->
    case io:get_line("") of
        Line when is_list(Line); is_binary(Line) -> stop_at_end_of_input();
        _ -> halt(0)
    end.

%% @doc Has a command carried out, by whichever server leads: the state machine's answer once
%% it is on the disk of a majority.
-spec call(node() | [node()], term()) -> term().
call(Nodes, Command) ->
    call(Nodes, Command, 5000).

-spec call(node() | [node()], term(), timeout()) -> term().
call(Nodes, Command, Timeout) ->
    case ra:process_command(servers(Nodes), Command, Timeout) of
        {ok, Answer, _Leader} -> Answer;
        {Failed, _} = Error when Failed =:= error; Failed =:= timeout -> Error
    end.

%% @doc The node of the server that leads.
-spec leader(node() | [node()]) -> {ok, node()} | {error, term()}.
leader(Nodes) ->
    case ra:members(servers(Nodes), 1000) of
        {ok, _, {?NAME, Leader}} -> {ok, Leader};
        Other -> {error, Other}
    end.

servers(Nodes) when is_list(Nodes) -> [{?NAME, Node} || Node <- Nodes];
servers(Node) -> {?NAME, Node}.

-spec init(map()) -> #registry{}.
init(_) ->
    #registry{}.

-spec apply(map(), term(), #registry{}) ->
    {#registry{}, term(), list()} | {#registry{}, term()}.
apply(#{index := Index}, {register, Store, Pid}, #registry{stores = Stores, pids = Pids} = Registry) ->
    Workers = maps:get(Store, Stores, #{}),
    case {Workers, Pids} of
        {#{Pid := _}, _} ->
            {Registry, ok, snapshot(Index, Registry)};
        {_, #{Pid := Of}} ->
            Next = Registry#registry{stores = Stores#{Store => Workers#{Pid => Index}},
                                     pids = Pids#{Pid := [Store | Of]}},
            {Next, ok, snapshot(Index, Next)};
        {_, _} ->
            Next = Registry#registry{stores = Stores#{Store => Workers#{Pid => Index}},
                                     pids = Pids#{Pid => [Store]}},
            {Next, ok, [{monitor, process, Pid} | snapshot(Index, Next)]}
    end;
apply(#{index := Index}, {unregister, Store, Pid}, #registry{stores = Stores, pids = Pids} = Registry) ->
    case Pids of
        #{Pid := Of} ->
            Next0 = Registry#registry{stores = without(Store, Pid, Stores)},
            case lists:delete(Store, Of) of
                [] ->
                    Next = Next0#registry{pids = maps:remove(Pid, Pids)},
                    {Next, ok, [{demonitor, process, Pid} | snapshot(Index, Next)]};
                Rest ->
                    Next = Next0#registry{pids = Pids#{Pid := Rest}},
                    {Next, ok, snapshot(Index, Next)}
            end;
        #{} ->
            {Registry, ok, snapshot(Index, Registry)}
    end;
apply(_, {get_workers, Store}, #registry{stores = Stores} = Registry) ->
    Workers = lists:keysort(2, maps:to_list(maps:get(Store, Stores, #{}))),
    {Registry, {ok, [{node(Pid), Pid} || {Pid, _} <- Workers]}};
apply(#{index := Index}, {down, Pid, Reason}, #registry{stores = Stores, pids = Pids} = Registry)
  when Reason =/= noconnection ->
    Gone = maps:get(Pid, Pids, []),
    Next = Registry#registry{
        stores = lists:foldl(fun(Store, S) -> without(Store, Pid, S) end, Stores, Gone),
        pids = maps:remove(Pid, Pids)
    },
    {Next, ok, snapshot(Index, Next)};
apply(_, _, Registry) ->
    %% A lost connection, a node that is back, a new version of the machine.
    {Registry, ok}.

%% @doc Monitors belong to the leader: a new one sets them up.
-spec state_enter(atom(), #registry{}) -> list().
state_enter(leader, #registry{pids = Pids}) ->
    [{monitor, process, Pid} || Pid <- maps:keys(Pids)];
state_enter(_, _) ->
    [].

snapshot(Index, Registry) when Index rem ?SNAPSHOT_EVERY =:= 0 ->
    [{release_cursor, Index, Registry}];
snapshot(_, _) ->
    [].

without(Store, Pid, Stores) ->
    case maps:remove(Pid, maps:get(Store, Stores, #{})) of
        Workers when map_size(Workers) =:= 0 -> maps:remove(Store, Stores);
        Workers -> Stores#{Store => Workers}
    end.
