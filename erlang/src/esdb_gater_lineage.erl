%%% @private
%%% @doc The bridge to nodes that run the original library, which find workers and subscribers in
%%% `pg' scopes:
%%%
%%% <dl>
%%% <dt>`reckon_gater_pg'</dt><dd>group `esdb_gater_workers_STORE': the workers of a store.</dd>
%%% <dt>`esdb_channel_scope'</dt><dd>group `Topic': its subscribers, of all channels. A publisher
%%%   sends `{channel_message, Channel, Topic, Message}' to each of them.</dd>
%%% </dl>
%%% The bridge translates as follows:
%%% <ul>
%%% <li>Workers of this node join the groups of their stores, and workers in the groups on nodes of
%%%     the original are registered at the gateway. Every node with a bridge registers them, which
%%%     results in one registration.</li>
%%% <li>The relay of a channel on this node joins the topics that have subscribers here. It receives
%%%     what nodes of the original publish, and drops messages of other channels.</li>
%%% <li>A publisher on this node also sends to the members on nodes of the original, in its own
%%%     process, so that its order is preserved. Nodes with a bridge receive the message from the
%%%     gateway.</li>
%%% </ul>
%%% So that nothing arrives or is listed twice, each bridge has to know which nodes have one. It
%%% asks a node by a message to the name of this module there, and monitors that name: an answer
%%% shows that the node has a bridge, and `noproc' that it has none. Bridges send
%%% `{esdb_gater_lineage, hello | here, pid()}'.
%%% @end
-module(esdb_gater_lineage).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

-export([start_link/0, scopes/0, worker_changed/3, topic_changed/3, published/4]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-define(WORKERS, reckon_gater_pg).
-define(TOPICS, esdb_channel_scope).
-define(PREFIX, "esdb_gater_workers_").
-define(NODES, esdb_gater_lineage_nodes).   % {Node, bridge | original}, read by publishers
-define(REGISTRY, esdb_gater_worker_registry).
-define(CHECK_MS, 2000).                % between looks for what has not been carried out
-define(ASK_MS, 2000).                  % that a publisher waits to learn what a node is

-type worker() :: {StoreId :: atom(), pid()}.

-record(state, {
    workers :: reference(),             % monitor of the scope
    exported = #{} :: #{worker() => []},
    topics = #{} :: #{{Topic :: binary(), pid()} => []},
    foreign = #{} :: #{worker() => []}, % members on other nodes, of either kind
    left = #{} :: #{worker() => []},    % to be unregistered when there is a gateway
    asked = #{} :: #{node() => reference()},
    waiting = #{} :: #{node() => [gen_server:from()]}
}).

-spec start_link() -> {ok, pid()} | ignore | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc Returns the scopes of the original library.
-spec scopes() -> [atom()].
scopes() -> [?WORKERS, ?TOPICS].

%%% Calls from the rest of the application. Without a bridge each costs one look-up of a name.

%% @doc Reports that a worker of this node was added to the mirror of the registry or removed from
%% it.
-spec worker_changed(added | removed, StoreId :: atom(), pid()) -> ok.
worker_changed(Change, Store, Pid) ->
    tell({worker, Change, Store, Pid}).

%% @doc Reports that the relay of a channel on this node has subscribers of a topic, or has none any
%% more.
-spec topic_changed(pid(), Topic :: binary(), boolean()) -> ok.
topic_changed(Pid, Topic, HasSubscribers) ->
    tell({topic, Pid, Topic, HasSubscribers}).

tell(Message) ->
    case whereis(?MODULE) of
        undefined -> ok;
        Bridge -> gen_server:cast(Bridge, Message)
    end.

%% @doc Sends a published message to the subscribers on nodes of the original library, unless
%% publishing failed. Returns the answer for the publisher.
-spec published(Channel :: atom(), Topic :: binary(), Message :: term(), Answer) -> Answer
              when Answer :: ok | {error, term()}.
published(Channel, Topic, Message, ok) ->
    case persistent_term:get(?MODULE, off) of
        off -> ok;
        on -> forward({channel_message, Channel, Topic, Message}, Topic)
    end;
published(_Channel, _Topic, _Message, Error) ->
    Error.

forward(Sent, Topic) ->
    Members = lists:usort(pg:get_members(?TOPICS, Topic)),
    lists:foreach(fun(Pid) -> is_original(node(Pid)) andalso (Pid ! Sent) end, Members).

is_original(Node) when Node =:= node() ->
    false;
is_original(Node) ->
    try ets:lookup(?NODES, Node) of
        [{_, Kind}] -> Kind =:= original;
        [] -> gen_server:call(?MODULE, {kind, Node}, ?ASK_MS) =:= original
    catch
        error:badarg -> false;
        exit:_ ->
            ?LOG_WARNING("erl_esdb_gater: node ~ts does not tell whether it runs the original; a "
                         "message to its subscribers was dropped", [Node]),
            false
    end.

%%% The process

-spec init([]) -> {ok, #state{}} | ignore.
init([]) ->
    _ = code:ensure_loaded(pg),
    case erlang:function_exported(pg, monitor_scope, 1) of
        true ->
            {ok, started()};
        false ->
            ?LOG_ERROR("erl_esdb_gater: lineage_scopes needs OTP 25.1 or later; there is no bridge "
                       "to nodes of the original"),
            ignore
    end.

started() ->
    process_flag(trap_exit, true),
    _ = ets:new(?NODES, [named_table, protected, {read_concurrency, true}]),
    ok = net_kernel:monitor_nodes(true),
    {Workers, Groups} = pg:monitor_scope(?WORKERS),
    lists:foreach(fun(Node) -> say(hello, Node) end, nodes()),
    ok = persistent_term:put(?MODULE, on),
    _ = erlang:send_after(?CHECK_MS, self(), check),
    Local = [{Store, Pid} || Store <- esdb_gater_request:stores(),
                             Pid <- esdb_gater_workers:local(Store)],
    Exported = lists:foldl(fun({Store, Pid}, Acc) -> export(added, Store, Pid, Acc) end,
                           #state{workers = Workers}, Local),
    Restored = restore_topics(Exported),
    maps:fold(fun(Group, Pids, Acc) -> joined(Group, Pids, Acc) end, Restored, Groups).

-spec handle_call(term(), gen_server:from(), #state{}) ->
          {reply, term(), #state{}} | {noreply, #state{}}.
handle_call({kind, Node}, From, #state{waiting = Waiting} = State) ->
    case ets:lookup(?NODES, Node) of
        [{_, Kind}] ->
            {reply, Kind, State};
        [] ->
            Others = maps:get(Node, Waiting, []),
            {noreply, ask(Node, State#state{waiting = Waiting#{Node => [From | Others]}})}
    end;
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast({worker, Change, Store, Pid}, State) ->
    {noreply, export(Change, Store, Pid, State)};
handle_cast({topic, Pid, Topic, HasSubscribers}, State) ->
    {noreply, topic(Pid, Topic, HasSubscribers, State)};
handle_cast(_Message, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({Ref, join, Group, Pids}, #state{workers = Ref} = State) ->
    {noreply, joined(Group, Pids, State)};
handle_info({Ref, leave, Group, Pids}, #state{workers = Ref} = State) ->
    {noreply, left(Group, Pids, State)};
handle_info({?MODULE, Word, Pid}, State) when is_pid(Pid), Word =:= hello; Word =:= here ->
    _ = Word =:= hello andalso say(here, node(Pid)),
    {noreply, learned(node(Pid), bridge, watch(node(Pid), State))};
handle_info({'DOWN', Ref, process, {?MODULE, Node}, Reason}, #state{asked = Asked} = State) ->
    case Asked of
        #{Node := Ref} when Reason =:= noproc ->
            {noreply, learned(Node, original, State#state{asked = maps:remove(Node, Asked)})};
        #{Node := Ref} ->
            {noreply, forget(Node, State)};
        _ ->
            {noreply, State}
    end;
handle_info({nodedown, Node}, State) ->
    {noreply, forget(Node, State)};
handle_info(check, State) ->
    _ = erlang:send_after(?CHECK_MS, self(), check),
    {noreply, check(State)};
handle_info(_Message, State) ->
    {noreply, State}.

%% The memberships that other nodes see end with the bridge; the registrations of the workers may
%% stay.
-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, #state{exported = Exported, topics = Topics}) ->
    _ = persistent_term:erase(?MODULE),
    maps:foreach(fun({Store, Pid}, []) -> leave(?WORKERS, group(Store), Pid) end, Exported),
    maps:foreach(fun({Topic, Pid}, []) -> leave(?TOPICS, Topic, Pid) end, Topics).

%%% Nodes with a bridge

say(Word, Node) ->
    _ = erlang:send({?MODULE, Node}, {?MODULE, Word, self()}, [noconnect]),
    ok.

ask(Node, #state{asked = Asked} = State) when is_map_key(Node, Asked) ->
    State;
ask(Node, State) ->
    Watched = watch(Node, State),
    ok = say(hello, Node),
    Watched.

watch(Node, #state{asked = Asked} = State) when is_map_key(Node, Asked) ->
    State;
watch(Node, #state{asked = Asked} = State) ->
    State#state{asked = Asked#{Node => erlang:monitor(process, {?MODULE, Node})}}.

forget(Node, #state{asked = Asked} = State) ->
    true = ets:delete(?NODES, Node),
    Answered = answer(Node, gone, State),
    case maps:take(Node, Asked) of
        {Ref, Others} ->
            true = erlang:demonitor(Ref, [flush]),
            Answered#state{asked = Others};
        error ->
            Answered
    end.

learned(Node, Kind, #state{foreign = Foreign} = State) ->
    true = ets:insert(?NODES, {Node, Kind}),
    lists:foreach(fun import/1, [Worker || {_, Pid} = Worker <- maps:keys(Foreign),
                                           node(Pid) =:= Node]),
    answer(Node, Kind, State).

answer(Node, Kind, #state{waiting = Waiting} = State) ->
    lists:foreach(fun(From) -> gen_server:reply(From, Kind) end, maps:get(Node, Waiting, [])),
    State#state{waiting = maps:remove(Node, Waiting)}.

%%% Workers

group(Store) -> list_to_atom(?PREFIX ++ atom_to_list(Store)).

store(Group) when is_atom(Group) ->
    case string:prefix(atom_to_list(Group), ?PREFIX) of
        nomatch -> none;
        [] -> none;
        Store -> {ok, list_to_atom(Store)}
    end;
store(_Group) ->
    none.

export(added, Store, Pid, #state{exported = Exported} = State)
  when not is_map_key({Store, Pid}, Exported) ->
    case esdb_channel_host:is_store(Store) of
        true ->
            State;
        false ->
            ok = join(?WORKERS, group(Store), Pid),
            State#state{exported = Exported#{{Store, Pid} => []}}
    end;
export(removed, Store, Pid, #state{exported = Exported} = State)
  when is_map_key({Store, Pid}, Exported) ->
    ok = leave(?WORKERS, group(Store), Pid),
    State#state{exported = maps:remove({Store, Pid}, Exported)};
export(_Change, _Store, _Pid, State) ->
    State.

joined(Group, Pids, State) ->
    case store(Group) of
        {ok, Store} -> lists:foldl(fun(Pid, Acc) -> joined_one(Store, Pid, Acc) end, State, Pids);
        none -> State
    end.

joined_one(_Store, Pid, State) when node(Pid) =:= node() ->
    State;
joined_one(Store, Pid, #state{foreign = Foreign, left = Left} = State) ->
    Worker = {Store, Pid},
    Joined = State#state{foreign = Foreign#{Worker => []}, left = maps:remove(Worker, Left)},
    case ets:lookup(?NODES, node(Pid)) of
        [_] -> ok = import(Worker), Joined;
        [] -> ask(node(Pid), Joined)
    end.

%% A worker that has joined twice leaves twice. If its node is lost, the gateway, which may still
%% reach the node, decides whether its workers are lost.
left(Group, Pids, State) ->
    case store(Group) of
        {ok, Store} ->
            Members = maps:from_keys(pg:get_members(?WORKERS, Group), []),
            Gone = [Pid || Pid <- lists:usort(Pids), not is_map_key(Pid, Members),
                           node(Pid) =/= node()],
            lists:foldl(fun(Pid, Acc) -> left_one({Store, Pid}, Acc) end, State, Gone);
        none ->
            State
    end.

left_one({_, Pid} = Worker, #state{foreign = Foreign, left = Left} = State) ->
    Fewer = State#state{foreign = maps:remove(Worker, Foreign)},
    case lists:member(node(Pid), nodes()) andalso ets:lookup(?NODES, node(Pid)) of
        [{_, original}] -> withdraw(Fewer#state{left = Left#{Worker => []}});
        _ -> Fewer
    end.

import({Store, Pid}) ->
    case ets:lookup(?NODES, node(Pid)) of
        [{_, original}] ->
            case esdb_gater_workers:member(Store, Pid) of
                true -> ok;
                false -> gen_server:cast(?REGISTRY, {register, Store, Pid})
            end;
        _ ->
            ok
    end.

withdraw(#state{left = Left} = State) ->
    case esdb_gater_link:gateway() of
        {ok, _} ->
            lists:foreach(fun({Store, Pid}) ->
                              gen_server:cast(?REGISTRY, {unregister, Store, Pid})
                          end, maps:keys(Left)),
            State#state{left = #{}};
        none ->
            State
    end.

%% A registration without a gateway fails after a time-out, and a node may not have answered, so
%% both are repeated.
check(#state{foreign = Foreign} = State) ->
    lists:foreach(fun import/1, maps:keys(Foreign)),
    Unknown = [Node || Node <- lists:usort([node(Pid) || {_, Pid} <- maps:keys(Foreign)]),
                       not ets:member(?NODES, Node)],
    Living = State#state{topics = living(State#state.topics)},
    withdraw(lists:foldl(fun ask/2, Living, Unknown)).

%%% Topics

topic(Pid, Topic, true, #state{topics = Topics} = State)
  when not is_map_key({Topic, Pid}, Topics) ->
    ok = join(?TOPICS, Topic, Pid),
    State#state{topics = Topics#{{Topic, Pid} => []}};
topic(Pid, Topic, false, #state{topics = Topics} = State) when is_map_key({Topic, Pid}, Topics) ->
    ok = leave(?TOPICS, Topic, Pid),
    State#state{topics = maps:remove({Topic, Pid}, Topics)};
topic(_Pid, _Topic, _HasSubscribers, State) ->
    State.

%% After a crash of this process the scope may still contain its memberships.
restore_topics(State) ->
    lists:foldl(fun({Channel, Topic}, Acc) ->
                    case esdb_gater_relay:find(Channel) of
                        {ok, Pid} -> topic(Pid, Topic, true, Acc);
                        none -> Acc
                    end
                end, State, esdb_gater_relay:topics()).

%% The scope itself removes processes that have ended.
living(Topics) ->
    maps:filter(fun({_, Pid}, []) -> is_process_alive(Pid) end, Topics).

%% A process that joins twice would be listed twice.
join(Scope, Group, Pid) ->
    try
        case lists:member(Pid, pg:get_local_members(Scope, Group)) of
            true -> ok;
            false -> pg:join(Scope, Group, Pid)
        end
    catch _:Reason -> not_carried_out(join, Scope, Group, Reason)
    end.

leave(Scope, Group, Pid) ->
    try pg:leave(Scope, Group, Pid) of
        _ -> ok
    catch
        _:Reason -> not_carried_out(leave, Scope, Group, Reason)
    end.

%% The scope has ended or is about to end. The supervisor then restarts the bridge as well.
not_carried_out(What, Scope, Group, Reason) ->
    ?LOG_WARNING("erl_esdb_gater: could not ~ts group ~tp of the pg scope ~ts: ~tp",
                 [What, Group, Scope, Reason]).
