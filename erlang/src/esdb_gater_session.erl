%%% @private
%%% @doc The link of this node to a gateway, and the worker registry as this node sees it.
%%%
%%% Registered as `esdb_gater_worker_registry', so that the registry can be called here as it
%%% can on a gateway. The process
%%% <ul>
%%% <li>connects to a gateway: the embedded one when {@link esdb_gater_port} says that it is
%%%     up, or one of the named ones, those on this host first, the next when one is lost;</li>
%%% <li>registers there again whatever was registered through this node and still lives, and
%%%     has its followers, the relays of the channels, subscribe again;</li>
%%% <li>then attaches a session and keeps this node's copy of the registry
%%%     ({@link esdb_gater_workers}) by what the session sends;</li>
%%% <li>carries registrations to the gateway. One that finds no gateway waits for it, and is
%%%     answered `{error, no_gateway}' after five seconds.</li>
%%% </ul>
%%% Phases: `idle' (no connection), `connecting', `restoring' (registrations and subscriptions
%%% are being repeated), `attaching', `attached'. In every phase but the last, calls wait.
%%%
%%% Messages of a session carry a revision that grows by one; a gap means that something was
%%% missed, and the session is attached anew. A session's messages arrive before the answer
%%% of the registration that caused them, because both travel on one connection in order and
%%% this process keeps its messages in order (it must not use `message_queue_data').
%%% @end
-module(esdb_gater_session).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

-export([start_link/1]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-export_type([options/0]).

-type options() :: #{mode := embedded | named, gateways => [node()]}.

-define(SERVER, esdb_gater_worker_registry).
-define(SESSION, esdb_gater_session).
-define(REGISTRY, esdb_gater_worker_registry).
-define(PROTOCOL, 1).

-define(CALL_TIMEOUT, 5000).            % ms a caller waits for a gateway
-define(PHASE_TIMEOUT, 10000).          % ms from connected to attached
-define(TICK, 1000).                    % ms between looks at handlers and the heartbeat
-define(SILENCE, 10000).                % ms a heartbeat may stay unanswered
-define(REASSERT, 60000).               % ms between looks for lost registrations

-record(op, {
    kind :: register | unregister,
    store :: atom(),
    pid :: pid(),
    from :: gen_server:from() | none,
    timer :: reference() | none,
    sent = false :: boolean()               % to the gateway in use
}).

-record(state, {
    mode :: embedded | named,
    candidates :: esdb_gater_candidates:candidates(),
    phase = idle :: idle | connecting | restoring | attaching | attached,
    node :: node() | undefined,             % of the phases after idle
    helper :: {pid(), reference()} | undefined,
    session :: reference() | undefined,     % monitor of the session's name
    phase_timer :: reference() | undefined,
    backoff_timer :: reference() | undefined,
    requests :: gen_server:request_id_collection(),
    restoring = 0 :: non_neg_integer(),     % registrations not yet answered
    relays = #{} :: #{pid() => []},         % followers that have not yet subscribed again
    rev :: integer() | undefined,           % of the last message; undefined before the reset
    info :: map() | undefined,              % the answer to attach
    ops = #{} :: #{integer() => #op{}},
    next_op = 1 :: pos_integer(),
    waiting = esdb_gater_awaiting:new() :: esdb_gater_awaiting:awaiting(),
    monitors = #{} :: #{pid() => reference()},
    followers = #{} :: #{pid() => reference()},
    former = #{} :: #{node() => []},        % lost gateways that may live and remember us
    events = [] :: [esdb_gater_telemetry:event()],
    heartbeat :: integer() | undefined      % monotonic ms of the one that is unanswered
}).

-spec start_link(options()) -> {ok, pid()} | {error, term()}.
start_link(Options) ->
    gen_server:start_link({local, ?SERVER}, ?MODULE, Options, []).

-spec init(options()) -> {ok, #state{}, {continue, start}}.
init(#{mode := Mode} = Options) ->
    process_flag(trap_exit, true),
    %% After a crash the tables are as they were; nothing of the old session counts.
    ok = esdb_gater_facts:unset(gateway),
    State = #state{mode = Mode,
                   candidates = esdb_gater_candidates:new(maps:get(gateways, Options, [])),
                   requests = gen_server:reqids_new()},
    _ = Mode =:= named andalso net_kernel:monitor_nodes(true, [{node_type, all}]),
    _ = erlang:send_after(?TICK, self(), tick),
    _ = erlang:send_after(?REASSERT, self(), reassert),
    {ok, monitor_wanted(State), {continue, start}}.

-spec handle_continue(start, #state{}) -> {noreply, #state{}}.
handle_continue(start, #state{mode = embedded} = State) ->
    %% After a crash of this process the program still runs.
    case esdb_gater_facts:get(embedded) of
        {ok, Node} -> {noreply, connect(only(Node, State))};
        none -> {noreply, State}
    end;
handle_continue(start, State) ->
    {noreply, connect(State)}.

-spec handle_call(term(), gen_server:from(), #state{}) ->
          {reply, term(), #state{}} | {noreply, #state{}}.
handle_call({register, Store, Pid}, From, State) when is_atom(Store), is_pid(Pid) ->
    case node(Pid) =:= node() andalso not is_process_alive(Pid) of
        true -> {reply, {error, noproc}, State};
        false -> {noreply, new_op(register, Store, Pid, From, State)}
    end;
handle_call({unregister, Store, Pid}, From, State) when is_atom(Store), is_pid(Pid) ->
    {noreply, new_op(unregister, Store, Pid, From, State)};
handle_call({Kind, _, _}, _From, State) when Kind =:= register; Kind =:= unregister ->
    {reply, {error, badarg}, State};
handle_call({get_workers, Store}, _From, State) ->
    {reply, {ok, esdb_gater_workers:list(Store)}, State};
handle_call({get_local_workers, Store}, {Pid, _}, State) ->
    Workers = [W || {Node, W} <- esdb_gater_workers:list(Store), Node =:= node(Pid)],
    {reply, Workers, State};
handle_call(list_stores, _From, State) ->
    {reply, esdb_gater_workers:stores(), State};
handle_call({await, What, Timeout}, From, State) ->
    case esdb_gater_facts:get(What) of
        {ok, ready} -> {reply, ok, State};
        {ok, Node} -> {reply, {ok, Node}, State};
        none ->
            Waiting = esdb_gater_awaiting:add(What, Timeout, From, State#state.waiting),
            {noreply, State#state{waiting = Waiting}}
    end;
handle_call(handlers_changed, From, State) ->
    {noreply, tell_events(From, State)};
handle_call(push_secret, From, State) ->
    ok = esdb_gater_facts:set(push_secret, true),
    {noreply, send_secret(From, State)};
handle_call(sync, _From, State) ->
    {reply, ok, State};
handle_call(status, _From, State) ->
    {reply, #{phase => State#state.phase, gateway => State#state.node,
              candidates => esdb_gater_candidates:to_list(State#state.candidates), rev => State#state.rev,
              info => State#state.info, events => State#state.events,
              wanted => esdb_gater_wanted:size(), waiting => map_size(State#state.ops),
              followers => map_size(State#state.followers)}, State};
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast({Kind, Store, Pid}, State)
  when is_atom(Store), is_pid(Pid), (Kind =:= register orelse Kind =:= unregister) ->
    {noreply, new_op(Kind, Store, Pid, none, State)};
handle_cast({follow, Pid}, #state{followers = Followers} = State) ->
    _ = Pid ! {esdb_gater_link, follower_news(State)},
    case Followers of
        #{Pid := _} -> {noreply, State};
        _ -> {noreply, State#state{followers = Followers#{Pid => erlang:monitor(process, Pid)}}}
    end;
handle_cast({restored, Node, Pid}, #state{node = Node, phase = restoring} = State) ->
    {noreply, relay_restored(Pid, State)};
handle_cast(handlers_changed, State) ->
    {noreply, tell_events(none, State)};
handle_cast({embedded_up, Node}, #state{mode = embedded, node = Node, phase = Phase} = State)
  when Phase =/= idle ->
    {noreply, State};
handle_cast({embedded_up, Node}, #state{mode = embedded} = State) ->
    Lost = lost(superseded, State),
    {noreply, connect(only(Node, Lost))};
handle_cast(embedded_down, #state{mode = embedded} = State) ->
    Lost = lost(embedded_down, State),
    {noreply, cancel_backoff(Lost#state{candidates = esdb_gater_candidates:new([])})};
handle_cast(_Message, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({esdb_gater_registry, reset, Rev, Registry}, #state{phase = Phase} = State)
  when Phase =:= attaching; Phase =:= attached ->
    ok = esdb_gater_workers:reset([{Store, [P || P <- Pids, plausible(P)]}
                                   || {Store, Pids} <- Registry]),
    {noreply, maybe_attached(State#state{rev = Rev})};
handle_info({esdb_gater_registry, Change, Rev, Store, Pid}, #state{rev = Last} = State)
  when is_integer(Last), Rev =:= Last + 1 ->
    changed(Change, Store, Pid),
    {noreply, State#state{rev = Rev}};
handle_info({esdb_gater_registry, _, Rev, _, _}, #state{rev = Last, phase = attached} = State)
  when is_integer(Last), Rev > Last + 1 ->
    ?LOG_NOTICE("erl_esdb_gater: changes ~b to ~b of the registry were missed; attaching anew",
                [Last + 1, Rev - 1], #{domain => [esdb_gater]}),
    {noreply, attach(State)};
handle_info({esdb_gater_event, Event, Measurements, Metadata}, State)
  when is_map(Measurements), is_map(Metadata) ->
    esdb_gater_telemetry:emit(Event, Measurements, Metadata),
    {noreply, State};
handle_info({'DOWN', Ref, process, _, Result}, #state{helper = {_, Ref}} = State) ->
    {noreply, connected(Result, State#state{helper = undefined})};
handle_info({'DOWN', Ref, process, _, Reason}, #state{session = Ref} = State) ->
    {noreply, reconnect(lost(Reason, State#state{session = undefined}))};
handle_info({'DOWN', Ref, process, Pid, Reason} = Message, State) ->
    #state{monitors = Monitors, followers = Followers} = State,
    case {Monitors, Followers} of
        {#{Pid := Ref}, _} ->
            {noreply, wanted_down(Pid, Reason, State#state{monitors = maps:remove(Pid, Monitors)})};
        {_, #{Pid := Ref}} ->
            Fewer = State#state{followers = maps:remove(Pid, Followers)},
            {noreply, relay_restored(Pid, Fewer)};
        _ ->
            {noreply, maybe_response(Message, State)}
    end;
handle_info(tick, State) ->
    _ = erlang:send_after(?TICK, self(), tick),
    ok = esdb_gater_telemetry:refresh(),
    {noreply, beat(tell_events(none, State))};
handle_info(reassert, State) ->
    _ = erlang:send_after(?REASSERT, self(), reassert),
    {noreply, reassert(State)};
handle_info(connect, State) ->
    {noreply, connect(State#state{backoff_timer = undefined})};
handle_info({phase_timeout, Node}, #state{node = Node, phase = Phase} = State)
  when Phase =:= restoring; Phase =:= attaching ->
    {noreply, reconnect(lost(no_answer, State))};
handle_info({nodeup, Node, _}, #state{former = Former, node = Current} = State)
  when is_map_key(Node, Former), Node =/= Current ->
    {noreply, take_leave(Node, State)};
handle_info({left, Node}, #state{former = Former, phase = Phase} = State) ->
    Left = State#state{former = maps:remove(Node, Former)},
    %% What it has sent meanwhile may have been taken for the other's.
    case Phase of
        attached -> {noreply, attach(Left)};
        _ -> {noreply, Left}
    end;
handle_info({UpOrDown, _, _}, State) when UpOrDown =:= nodeup; UpOrDown =:= nodedown ->
    {noreply, State};
handle_info({expire_op, Id}, State) ->
    {noreply, expire_op(Id, State)};
handle_info({expire_waiting, Ref}, #state{waiting = Waiting} = State) ->
    {noreply, State#state{waiting = esdb_gater_awaiting:expire(Ref, Waiting)}};
handle_info(Message, State) ->
    {noreply, maybe_response(Message, State)}.

-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, _State) ->
    %% The gateway monitors this process; there is nothing to take leave of.
    esdb_gater_facts:unset(gateway).

%%% Connecting

only(Node, State) ->
    State#state{candidates = esdb_gater_candidates:new([Node])}.

%% The helper gives its answer by its exit.
-dialyzer({nowarn_function, connect/1}).
connect(#state{phase = idle, candidates = Candidates} = State) ->
    case esdb_gater_candidates:current(Candidates) of
        {ok, Node} ->
            Cancelled = cancel_backoff(State),
            Helper = spawn_monitor(fun() -> exit({connected, net_kernel:connect_node(Node)}) end),
            Cancelled#state{phase = connecting, node = Node, helper = Helper};
        none ->
            State
    end;
connect(State) ->
    State.

connected({connected, true}, #state{phase = connecting, node = Node} = State) ->
    Session = erlang:monitor(process, {?SESSION, Node}),
    Timer = erlang:send_after(?PHASE_TIMEOUT, self(), {phase_timeout, Node}),
    Former = maps:remove(Node, State#state.former),
    restore(State#state{former = Former, phase = restoring, session = Session, phase_timer = Timer});
connected(Result, #state{phase = connecting, node = Node} = State) ->
    case Result of
        {connected, ignored} ->
            ?LOG_ERROR("erl_esdb_gater: no connection to the gateway ~ts: this node has no name; "
                       "start it with -name", [Node], #{domain => [esdb_gater]});
        _ ->
            ?LOG_INFO("erl_esdb_gater: no connection to the gateway ~ts", [Node],
                      #{domain => [esdb_gater]})
    end,
    reconnect(lost(unreachable, State));
connected(_Result, State) ->
    State.

%% The next candidate at once, until all have failed; then after a pause.
reconnect(#state{candidates = Candidates} = State) ->
    case esdb_gater_candidates:failed(Candidates) of
        {0, Next} ->
            connect(State#state{candidates = Next});
        {Pause, Next} ->
            Cancelled = cancel_backoff(State),
            Cancelled#state{candidates = Next,
                            backoff_timer = erlang:send_after(Pause, self(), connect)}
    end.

cancel_backoff(#state{backoff_timer = undefined} = State) ->
    State;
cancel_backoff(#state{backoff_timer = Timer} = State) ->
    _ = erlang:cancel_timer(Timer),
    State#state{backoff_timer = undefined}.

%% No gateway any more. The copy of the registry stays as it was: an old answer beats none.
lost(_Reason, #state{phase = idle} = State) ->
    State;
lost(Reason, #state{phase = Phase, node = Node, session = Session} = State) ->
    _ = Phase =:= attached andalso
        ?LOG_WARNING("erl_esdb_gater: gateway ~ts is lost (~tp)", [Node, Reason],
                     #{domain => [esdb_gater]}),
    ok = esdb_gater_facts:unset(gateway),
    _ = Session =/= undefined andalso erlang:demonitor(Session, [flush]),
    stop_helper(State#state.helper),
    cancel(State#state.phase_timer),
    %% A gateway that does not answer, or that a newer one has replaced, must not be heard
    %% again either: its messages would mix with those of the next.
    _ = (Reason =:= no_answer orelse Reason =:= superseded)
        andalso erlang:disconnect_node(Node),
    _ = Phase =/= connecting andalso tell_followers(down, State),
    State#state{former = (State#state.former)#{Node => []},
                ops = maps:map(fun(_, Op) -> Op#op{sent = false} end, State#state.ops),
                phase = idle, node = undefined, session = undefined, helper = undefined,
                phase_timer = undefined, requests = gen_server:reqids_new(), rev = undefined,
                info = undefined, events = [], heartbeat = undefined, restoring = 0,
                relays = #{}}.

%% A gateway keeps subscriptions over a lost connection, and connects again by itself. When
%% another has taken over, what is published there would come twice.
take_leave(Node, State) ->
    ok = tell_followers({former, Node}, State),
    ok = esdb_gater_link:leave(Node, self()),
    State.

stop_helper(undefined) -> ok;
stop_helper({Pid, Ref}) ->
    true = erlang:demonitor(Ref, [flush]),
    true = exit(Pid, kill),
    ok.

%%% Restoring and attaching

%% What was registered and subscribed through this node is so again before the session begins:
%% the copy never lacks it, and who waits for a gateway finds it there.
restore(#state{node = Node, followers = Followers} = State) ->
    ok = tell_followers({up, Node}, State),
    Wanted = esdb_gater_wanted:active(),
    Sent = lists:foldl(fun({Store, Pid}, Acc) ->
                           request(?REGISTRY, {register, Store, Pid}, {restored, Store, Pid}, Acc)
                       end, monitor_wanted(State), Wanted),
    maybe_restored(Sent#state{restoring = length(Wanted),
                              relays = maps:map(fun(_, _) -> [] end, Followers)}).

restored(#state{phase = restoring, restoring = N} = State) ->
    maybe_restored(State#state{restoring = N - 1});
restored(State) ->
    State.

relay_restored(Pid, #state{phase = restoring, relays = Relays} = State) ->
    maybe_restored(State#state{relays = maps:remove(Pid, Relays)});
relay_restored(_Pid, State) ->
    State.

maybe_restored(#state{restoring = 0, relays = Relays} = State) when map_size(Relays) =:= 0 ->
    attach(State);
maybe_restored(State) ->
    State.

attach(State) ->
    cancel(State#state.phase_timer),
    Timer = erlang:send_after(?PHASE_TIMEOUT, self(), {phase_timeout, State#state.node}),
    request(?SESSION, {attach, ?PROTOCOL, self(), #{}}, attach,
            State#state{phase = attaching, phase_timer = Timer, rev = undefined, info = undefined}).

%% Both the answer and the registry are needed; either may come first.
maybe_attached(#state{phase = attaching, rev = Rev, info = Info, node = Node} = State)
  when is_integer(Rev), is_map(Info) ->
    cancel(State#state.phase_timer),
    ?LOG_INFO("erl_esdb_gater: attached to gateway ~ts", [Node], #{domain => [esdb_gater]}),
    ok = esdb_gater_facts:set(channels, maps:get(channels, Info, #{})),
    Attached = State#state{phase = attached, phase_timer = undefined,
                           candidates = esdb_gater_candidates:succeeded(State#state.candidates)},
    Secret = send_secret(none, Attached),
    Events = tell_events(none, Secret),
    Unsent = maps:filter(fun(_, #op{sent = Sent}) -> not Sent end, Events#state.ops),
    Flushed = maps:fold(fun send_op/3, Events, Unsent),
    ok = esdb_gater_facts:set(copy, ready),
    ok = esdb_gater_facts:set(gateway, Node),
    Woken = esdb_gater_awaiting:wake(Node, Flushed#state.waiting),
    learn(maps:get(gateways, Info, []), Flushed#state{waiting = Woken});
maybe_attached(State) ->
    State.

%% Other gateways of the same cluster are as good as those of the configuration.
learn(Gateways, #state{mode = named, candidates = Candidates} = State) when is_list(Gateways) ->
    Nodes = [G || G <- Gateways, is_atom(G)],
    State#state{candidates = esdb_gater_candidates:learn(Nodes, Candidates)};
learn(_Gateways, State) ->
    State.

follower_news(#state{phase = Phase, node = Node})
  when Phase =:= restoring; Phase =:= attaching; Phase =:= attached ->
    {up, Node};
follower_news(_) ->
    down.

tell_followers(News, #state{followers = Followers}) ->
    maps:foreach(fun(Pid, _) -> Pid ! {esdb_gater_link, News} end, Followers).

%%% The copy of the registry

changed(added, Store, Pid) ->
    case plausible(Pid) of
        true ->
            _ = esdb_gater_workers:add(Store, Pid),
            esdb_gater_wanted:mark(Store, Pid, active);
        false ->
            ok
    end;
changed(removed, Store, Pid) ->
    _ = esdb_gater_workers:remove(Store, Pid),
    case node(Pid) =:= node() of
        %% It has ended, or somebody has unregistered it: either way nobody wants it back.
        true -> esdb_gater_wanted:remove(Store, Pid);
        %% Or its node is out of reach. The gateway remembers it, and so do we, but only the
        %% gateway can know whether it should come back.
        false -> esdb_gater_wanted:mark(Store, Pid, faded)
    end.

%% A dead process of this node may still be on its way through the gateway.
plausible(Pid) ->
    node(Pid) =/= node() orelse is_process_alive(Pid).

%%% Registrations

new_op(Kind, Store, Pid, From, #state{next_op = Id, ops = Ops} = State) ->
    Timer = erlang:send_after(?CALL_TIMEOUT, self(), {expire_op, Id}),
    Op = #op{kind = Kind, store = Store, pid = Pid, from = From, timer = Timer},
    Queued = State#state{next_op = Id + 1, ops = Ops#{Id => Op}},
    case State#state.phase of
        attached -> send_op(Id, Op, Queued);
        _ -> Queued
    end.

send_op(Id, #op{kind = Kind, store = Store, pid = Pid} = Op, #state{ops = Ops} = State) ->
    request(?REGISTRY, {Kind, Store, Pid}, {op, Id, Kind, Store, Pid},
            State#state{ops = Ops#{Id := Op#op{sent = true}}}).

expire_op(Id, #state{ops = Ops} = State) ->
    case maps:take(Id, Ops) of
        {#op{from = From}, Rest} ->
            answer(From, {error, no_gateway}),
            State#state{ops = Rest};
        error ->
            State
    end.

op_answered(Id, Kind, Store, Pid, Answer, #state{ops = Ops} = State) ->
    case maps:take(Id, Ops) of
        {#op{from = From, timer = Timer}, Rest} ->
            cancel(Timer),
            Done = op_done(Kind, Store, Pid, Answer, State#state{ops = Rest}),
            answer(From, Answer),
            Done;
        error when Kind =:= register, Answer =:= ok ->
            %% The caller has been told that it failed.
            request(?REGISTRY, {unregister, Store, Pid}, ignored, State);
        error ->
            State
    end.

op_done(register, Store, Pid, ok, State) ->
    ok = esdb_gater_wanted:add(Store, Pid),
    %% While a session is attached anew, its messages are not heard.
    _ = State#state.phase =:= attaching andalso esdb_gater_workers:add(Store, Pid),
    monitor_pid(Pid, State);
op_done(unregister, Store, Pid, ok, State) ->
    ok = esdb_gater_wanted:remove(Store, Pid),
    State;
op_done(_Kind, _Store, _Pid, _Error, State) ->
    State.

answer(none, _Answer) -> ok;
answer(From, Answer) -> gen_server:reply(From, Answer).

%% Looked at now and then: what should be registered and is not.
reassert(#state{phase = attached} = State) ->
    lists:foldl(
      fun({Store, Pid}, Acc) ->
              case esdb_gater_workers:member(Store, Pid) of
                  true -> Acc;
                  false -> request(?REGISTRY, {register, Store, Pid}, ignored, Acc)
              end
      end, monitor_wanted(State), esdb_gater_wanted:active());
reassert(State) ->
    State.

monitor_wanted(State) ->
    lists:foldl(fun monitor_pid/2, State, esdb_gater_wanted:processes()).

monitor_pid(Pid, #state{monitors = Monitors} = State) ->
    case Monitors of
        #{Pid := _} -> State;
        _ -> State#state{monitors = Monitors#{Pid => erlang:monitor(process, Pid)}}
    end.

%% Out of reach is not dead; the gateway may still reach it.
wanted_down(_Pid, noconnection, State) ->
    State;
wanted_down(Pid, _Reason, State) ->
    lists:foreach(fun(Store) -> esdb_gater_workers:remove(Store, Pid) end,
                  esdb_gater_wanted:remove_process(Pid)),
    State.

%%% Requests to the gateway

request(Name, Request, Label, #state{node = Node, requests = Requests} = State) ->
    State#state{requests = gen_server:send_request({Name, Node}, Request, Label, Requests)}.

maybe_response(Message, #state{requests = Requests} = State) ->
    case gen_server:check_response(Message, Requests, true) of
        {{reply, Reply}, Label, Rest} ->
            response(Label, Reply, State#state{requests = Rest});
        {{error, _}, Label, Rest} ->
            failed(Label, State#state{requests = Rest});
        _ ->
            State
    end.

response({op, Id, Kind, Store, Pid}, Answer, State) ->
    op_answered(Id, Kind, Store, Pid, Answer, State);
response({restored, Store, Pid}, Answer, State) ->
    case Answer of
        {error, Gone} when Gone =:= noproc; Gone =:= badarg ->
            ok = esdb_gater_wanted:remove(Store, Pid);
        _ ->
            ok
    end,
    restored(State);
response(attach, {ok, Info}, State) when is_map(Info) ->
    maybe_attached(State#state{info = Info});
response(attach, Answer, #state{node = Node} = State) ->
    ?LOG_ERROR("erl_esdb_gater: gateway ~ts refuses the session: ~tp", [Node, Answer],
               #{domain => [esdb_gater]}),
    reconnect(lost(no_answer, State));
response({events, From}, _Answer, State) ->
    answer(From, ok),
    State;
response({secret, From}, _Answer, State) ->
    answer(From, ok),
    State;
response(heartbeat, _Answer, State) ->
    State#state{heartbeat = undefined};
response(ignored, _Answer, State) ->
    State.

%% The service is not there, or the connection is going: its monitor says so as well.
failed({restored, _, _}, State) -> restored(State);
failed({events, From}, State) -> answer(From, ok), State;
failed({secret, From}, State) -> answer(From, ok), State;
failed(heartbeat, State) -> State#state{heartbeat = undefined};
failed(_Label, State) -> State.

tell_events(From, #state{phase = attached, events = Known} = State) ->
    case esdb_gater_telemetry:gateway_events() of
        Known ->
            answer(From, ok),
            State;
        Events ->
            request(?SESSION, {events, self(), Events}, {events, From},
                    State#state{events = Events})
    end;
tell_events(From, State) ->
    answer(From, ok),
    State.

send_secret(From, #state{phase = attached} = State) ->
    case esdb_gater_facts:get(push_secret) of
        {ok, true} ->
            request(?SESSION, {set_secret, esdb_pubsub_security:get_secret()}, {secret, From}, State);
        none ->
            answer(From, ok),
            State
    end;
send_secret(From, State) ->
    answer(From, ok),
    State.

%% A gateway that has the connection open and does not answer is lost all the same.
beat(#state{phase = attached, heartbeat = undefined} = State) ->
    request(?SESSION, info, heartbeat,
            State#state{heartbeat = erlang:monotonic_time(millisecond)});
beat(#state{phase = attached, heartbeat = Sent} = State) ->
    case erlang:monotonic_time(millisecond) - Sent > ?SILENCE of
        true -> reconnect(lost(no_answer, State));
        false -> State
    end;
beat(State) ->
    State.

cancel(undefined) -> ok;
cancel(none) -> ok;
cancel(Timer) ->
    _ = erlang:cancel_timer(Timer),
    ok.
