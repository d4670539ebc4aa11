%%% @private
%%% @doc The link of this node to a gateway, and the worker registry as this node sees it.
%%%
%%% Registered as `esdb_gater_worker_registry', so that the registry can be called here as it
%%% can on a gateway. The process
%%% <ul>
%%% <li>connects to a gateway: the embedded one when told that it can serve, or one of those
%%%     that {@link esdb_gater_gateways} chooses from, the next when one is lost;</li>
%%% <li>attaches a session there and keeps this node's copy of the registry
%%%     ({@link esdb_gater_mirror}) by what the session sends;</li>
%%% <li>registers again what was registered through this node, still lives and is missing there,
%%%     and has its followers, the relays of the channels, subscribe again;</li>
%%% <li>carries registrations to the gateway ({@link esdb_gater_pending}). One that finds no
%%%     gateway waits for it, or is asserted later where the configuration says `eventual'; one that
%%%     is taken back without a gateway is remembered ({@link esdb_gater_withdrawals}).</li>
%%% </ul>
%%% Phases: `idle' (no connection), `connecting', `attaching' (until the registry has come),
%%% `restoring' (registrations and subscriptions are being repeated), `attached'. In every
%%% phase but the last, calls wait. Restoring has a second: what takes longer, such as a
%%% subscriber on a node that cannot be reached, goes on behind.
%%%
%%% Messages of a session carry a revision that grows by one; a gap means that something was
%%% missed, and the session is attached anew. A session's messages arrive before the answer
%%% of the registration that caused them, because both travel on one connection in order and
%%% this process keeps its messages in order (it must not use `message_queue_data').
%%%
%%% A lost connection shows at once. A gateway that keeps it and does not answer is found out by
%%% {@link esdb_gater_heartbeat}.
%%% @end
-module(esdb_gater_session).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

-export([start_link/1]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-export_type([options/0]).

-type options() :: #{mode := embedded | named, gateways => [node()],
                     gateway_timeout_ms => pos_integer(),
                     registration => acknowledged | eventual}.

-define(SERVER, esdb_gater_worker_registry).
-define(SESSION, esdb_gater_session).
-define(REGISTRY, esdb_gater_worker_registry).
-define(PROTOCOL, 1).

-define(CONNECT_TIMEOUT, 1000).         % ms to connect while there is another one to try
-define(PHASE_TIMEOUT, 10000).          % ms to connect otherwise, and to attach
-define(RESTORE_TIMEOUT, 1000).         % ms that calls wait for what is being restored
-define(SILENCE, 3000).                 % ms a gateway may be silent, unless configured
-define(SETTLE, 3000).                  % ms until a worker that the next gateway does not know goes
-define(TICK, 1000).                    % ms between looks at handlers of telemetry events
-define(REASSERT, 30000).               % ms, 25 percent more or less, between looks for what is
                                        % missing at the gateway, and for one on this host
-define(REASSERT_SOON, 1000).           % ms, after a refusal
-define(FORGET, 600000).                % ms; a faded registration is kept once to twice as long
-define(MOST_MS, 16#ffffffff).          % that a timer takes

-record(state, {
    mode :: embedded | named,
    silence :: pos_integer(),               % ms
    registration :: acknowledged | eventual,
    gateways :: esdb_gater_gateways:gateways(),
    phase = idle :: idle | connecting | attaching | restoring | attached,
    node :: node() | undefined,             % of the phases after idle
    helper :: {pid(), reference()} | undefined,
    session :: reference() | undefined,     % monitor of the session's name
    pulse :: pid() | undefined,
    phase_timer :: reference() | undefined,
    backoff_timer :: reference() | undefined,
    reassert_timer :: reference() | undefined,
    requests :: gen_server:request_id_collection(),
    attempt = 0 :: non_neg_integer(),       % grows by one with each attach
    restoring = 0 :: non_neg_integer(),     % registrations of this attempt not yet answered
    relays = #{} :: #{pid() => []},         % followers that have not yet subscribed again
    rev :: integer() | undefined,           % of the last message; undefined before the reset
    info :: map() | undefined,              % the answer to attach
    unconfirmed = #{} :: esdb_gater_mirror:unconfirmed(),
    settled = false :: boolean(),           % this gateway knows whatever there is
    out_of_reach = false :: boolean(),      % no gateway was reached when each was tried last
    pending = esdb_gater_pending:new() :: esdb_gater_pending:pending(),
    waiting = esdb_gater_waiters:new() :: esdb_gater_waiters:waiters(),
    monitors = #{} :: #{pid() => reference()},
    followers = #{} :: #{pid() => reference()},
    former = esdb_gater_departed:new() :: esdb_gater_departed:former(),
    home :: {pid(), reference(), node()} | undefined,   % connects to one on this host
    unreachable_warned = false :: boolean(),            % since the last gateway
    events = [] :: [esdb_gater_telemetry:event()]
}).

-spec start_link(options()) -> {ok, pid()} | {error, term()}.
start_link(Options) ->
    gen_server:start_link({local, ?SERVER}, ?MODULE, Options, []).

-spec init(options()) -> {ok, #state{}, {continue, start}}.
init(#{mode := Mode} = Options) ->
    process_flag(trap_exit, true),
    %% After a crash the tables are as they were; nothing of the old session counts.
    ok = esdb_gater_shared_state:unset(gateway),
    State = #state{mode = Mode,
                   silence = maps:get(gateway_timeout_ms, Options, ?SILENCE),
                   registration = maps:get(registration, Options, acknowledged),
                   gateways = esdb_gater_gateways:new(maps:get(gateways, Options, [])),
                   requests = gen_server:reqids_new()},
    _ = net_kernel:monitor_nodes(true, [{node_type, all}]),
    _ = erlang:send_after(?TICK, self(), tick),
    _ = erlang:send_after(?FORGET, self(), forget),
    {ok, reassert_in(reassert_pause(), monitor_wanted(State)), {continue, start}}.

-spec handle_continue(start, #state{}) -> {noreply, #state{}}.
handle_continue(start, #state{mode = embedded} = State) ->
    %% After a crash of this process the program still runs.
    case esdb_gater_shared_state:get(embedded) of
        {ok, Node} -> {noreply, connect(only(Node, State))};
        none -> {noreply, State}
    end;
handle_continue(start, State) ->
    Known = case esdb_gater_shared_state:get(gateways) of
                {ok, Members} -> learn(Members, State);
                none -> State
            end,
    {noreply, connect(Known)}.

-spec handle_call(term(), gen_server:from(), #state{}) ->
          {reply, term(), #state{}} | {noreply, #state{}}.
handle_call({register, Store, Pid}, From, State) when is_atom(Store), is_pid(Pid) ->
    case {node(Pid) =:= node(), State#state.registration} of
        {true, Registration} ->
            case {is_process_alive(Pid), Registration} of
                {false, _} -> {reply, {error, noproc}, State};
                {true, eventual} -> {reply, ok, assert(Store, Pid, State)};
                {true, acknowledged} -> {noreply, carry(register, Store, Pid, From, State)}
            end;
        {false, _} ->
            {noreply, carry(register, Store, Pid, From, State)}
    end;
handle_call({unregister, Store, Pid}, From, #state{phase = attached} = State)
  when is_atom(Store), is_pid(Pid) ->
    {noreply, carry(unregister, Store, Pid, From, State)};
handle_call({unregister, Store, Pid}, _From, State) when is_atom(Store), is_pid(Pid) ->
    {reply, withdraw(Store, Pid), State};
handle_call({Kind, _, _}, _From, State) when Kind =:= register; Kind =:= unregister ->
    {reply, {error, badarg}, State};
handle_call({get_workers, Store}, _From, State) ->
    {reply, {ok, esdb_gater_workers:list(Store)}, State};
handle_call({get_local_workers, Store}, {Pid, _}, State) ->
    Workers = [W || {Node, W} <- esdb_gater_workers:list(Store), Node =:= node(Pid)],
    {reply, Workers, State};
handle_call(list_stores, _From, State) ->
    {reply, esdb_gater_workers:stores(), State};
handle_call({await, start, _}, _From, #state{out_of_reach = true} = State) ->
    {reply, {error, no_gateway}, State};
handle_call({await, start, Timeout}, From, State) ->
    case esdb_gater_shared_state:get(copy) of
        {ok, ready} -> {reply, ok, State};
        none -> {noreply, await(start, Timeout, From, State)}
    end;
handle_call({await, What, Timeout}, From, State)
  when (What =:= copy orelse What =:= gateway),
       is_integer(Timeout), Timeout >= 0, Timeout =< ?MOST_MS ->
    case esdb_gater_shared_state:get(What) of
        {ok, ready} -> {reply, ok, State};
        {ok, Node} -> {reply, {ok, Node}, State};
        none -> {noreply, await(What, Timeout, From, State)}
    end;
handle_call(handlers_changed, From, State) ->
    {noreply, tell_events(From, State)};
handle_call(push_secret, From, State) ->
    ok = esdb_gater_shared_state:set(push_secret, true),
    {noreply, send_secret(From, State)};
handle_call(status, _From, State) ->
    {reply, #{phase => State#state.phase, gateway => State#state.node,
              gateways => esdb_gater_gateways:to_list(State#state.gateways),
              rev => State#state.rev, info => State#state.info, events => State#state.events,
              wanted => esdb_gater_desired:size(), followers => map_size(State#state.followers),
              pending => esdb_gater_pending:size(State#state.pending)}, State};
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast({unregister, Store, Pid}, #state{phase = Phase} = State)
  when is_atom(Store), is_pid(Pid), Phase =/= attached ->
    _ = withdraw(Store, Pid),
    {noreply, State};
handle_cast({Kind, Store, Pid}, State)
  when is_atom(Store), is_pid(Pid), (Kind =:= register orelse Kind =:= unregister) ->
    {noreply, carry(Kind, Store, Pid, none, State)};
handle_cast({follow, Pid}, #state{followers = Followers} = State) ->
    _ = Pid ! {esdb_gater_link, follower_news(State)},
    case Followers of
        #{Pid := _} -> {noreply, State};
        _ -> {noreply, State#state{followers = Followers#{Pid => erlang:monitor(process, Pid)}}}
    end;
handle_cast({restored, Node, Pid}, #state{node = Node} = State) ->
    {noreply, relay_restored(Pid, State)};
handle_cast(out_of_reach, State) ->
    {noreply, out_of_reach(State)};
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
    {noreply, cancel_backoff(Lost#state{gateways = esdb_gater_gateways:new([])})};
handle_cast(_Message, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({esdb_gater_registry, reset, Rev, Registry}, #state{phase = Phase} = State)
  when Phase =/= idle, Phase =/= connecting ->
    {noreply, registry(Registry, State#state{rev = Rev})};
handle_info({esdb_gater_registry, Change, Rev, Store, Pid}, #state{rev = Last} = State)
  when is_integer(Last), Rev =:= Last + 1, (Change =:= added orelse Change =:= removed) ->
    Unconfirmed = esdb_gater_mirror:Change(Store, Pid, State#state.unconfirmed),
    {noreply, State#state{rev = Rev, unconfirmed = Unconfirmed}};
handle_info({esdb_gater_registry, _, Rev, _, _}, #state{rev = Last, phase = attached} = State)
  when is_integer(Last), Rev > Last + 1 ->
    ?LOG_NOTICE("erl_esdb_gater: changes ~b to ~b of the registry were missed; attaching anew",
                [Last + 1, Rev - 1], #{application => erl_esdb_gater}),
    {noreply, attach(State)};
handle_info({esdb_gater_event, Event, Measurements, Metadata}, State)
  when is_map(Measurements), is_map(Metadata) ->
    ok = esdb_gater_events:dispatch(Event, Measurements, Metadata),
    {noreply, State};
handle_info({esdb_gater_gateways, Members}, State) ->
    {noreply, look_home(learn(Members, State))};
handle_info({'DOWN', Ref, process, _, Result}, #state{helper = {_, Ref}} = State) ->
    {noreply, connected(Result, State#state{helper = undefined})};
handle_info({'DOWN', Ref, process, _, Result}, #state{home = {_, Ref, Node}} = State) ->
    {noreply, home_reached(Result, Node, State#state{home = undefined})};
handle_info({'EXIT', Pulse, Reason}, #state{pulse = Pulse, node = Node} = State) ->
    %% One that ends by itself has cut the connection, which shows by itself.
    Next = case Reason of
               normal -> undefined;
               _ -> esdb_gater_heartbeat:start_link(Node, State#state.silence)
           end,
    {noreply, State#state{pulse = Next}};
handle_info({'DOWN', Ref, process, _, Reason}, #state{session = Ref} = State) ->
    {noreply, reconnect(Reason, State#state{session = undefined})};
handle_info({'DOWN', Ref, process, Pid, Reason} = Message, State) ->
    #state{monitors = Monitors, followers = Followers} = State,
    case {Monitors, Followers} of
        {#{Pid := Ref}, _} ->
            ok = esdb_gater_mirror:ended(Pid, Reason),
            {noreply, State#state{monitors = maps:remove(Pid, Monitors)}};
        {_, #{Pid := Ref}} ->
            Fewer = State#state{followers = maps:remove(Pid, Followers)},
            {noreply, relay_restored(Pid, Fewer)};
        _ ->
            {noreply, maybe_response(Message, State)}
    end;
handle_info(tick, State) ->
    _ = erlang:send_after(?TICK, self(), tick),
    ok = esdb_gater_telemetry:refresh(),
    {noreply, tell_events(none, State)};
handle_info(reassert, State) ->
    {noreply, look_home(reassert(reassert_in(reassert_pause(), State)))};
handle_info(forget, #state{phase = Phase} = State) ->
    _ = erlang:send_after(?FORGET, self(), forget),
    %% Without a gateway nothing is offered, whether or not it should be.
    _ = Phase =:= attached andalso esdb_gater_desired:forget_faded(),
    {noreply, State};
handle_info({settle, Attempt}, #state{attempt = Attempt, unconfirmed = Unconfirmed} = State) ->
    ok = esdb_gater_mirror:settle(Unconfirmed),
    {noreply, State#state{unconfirmed = #{}, settled = true}};
handle_info(connect, State) ->
    {noreply, connect(State#state{backoff_timer = undefined})};
handle_info({phase_timeout, Phase, Node}, #state{node = Node, phase = Phase} = State) ->
    case Phase of
        restoring -> {noreply, serve(State)};
        connecting -> {noreply, reconnect(unreachable, State)};
        attaching -> {noreply, reconnect(no_answer, State)}
    end;
handle_info({nodeup, Node, _}, #state{former = Former, node = Current} = State)
  when Node =/= Current ->
    case esdb_gater_departed:member(Node, Former) of
        true -> {noreply, take_leave(Node, State)};
        false -> {noreply, State}
    end;
handle_info({left, Node}, #state{former = Former, phase = Phase} = State) ->
    Left = State#state{former = esdb_gater_departed:remove(Node, Former)},
    %% What it has sent meanwhile may have been taken for the other's.
    case lists:member(Phase, [attaching, restoring, attached]) of
        true -> {noreply, attach(Left)};
        false -> {noreply, Left}
    end;
handle_info({UpOrDown, _, _}, State) when UpOrDown =:= nodeup; UpOrDown =:= nodedown ->
    {noreply, State};
handle_info({expire_request, Id}, State) ->
    {noreply, expire(Id, State)};
handle_info({expire_waiting, Ref}, #state{waiting = Waiting} = State) ->
    {noreply, State#state{waiting = esdb_gater_waiters:expire(Ref, Waiting)}};
handle_info(Message, State) ->
    {noreply, maybe_response(Message, State)}.

-spec terminate(term(), #state{}) -> ok.
terminate(_Reason, _State) ->
    %% The gateway monitors this process; there is nothing to take leave of.
    esdb_gater_shared_state:unset(gateway).

%%% Connecting

only(Node, State) ->
    State#state{gateways = esdb_gater_gateways:new([Node])}.

connect(#state{phase = idle, gateways = Gateways} = State) ->
    case esdb_gater_gateways:current(Gateways) of
        {ok, Node} ->
            Timeout = case esdb_gater_gateways:others(Node, Gateways) of
                          true -> ?CONNECT_TIMEOUT;
                          false -> ?PHASE_TIMEOUT
                      end,
            Cancelled = cancel_backoff(State),
            phase(connecting, Timeout, Cancelled#state{node = Node, helper = esdb_gater_link:connector(Node)});
        none ->
            State
    end;
connect(State) ->
    State.

phase(Phase, Timeout, #state{phase_timer = Timer, node = Node} = State) ->
    cancel(Timer),
    Next = erlang:send_after(Timeout, self(), {phase_timeout, Phase, Node}),
    State#state{phase = Phase, phase_timer = Next}.

connected({connected, true}, #state{phase = connecting, node = Node} = State) ->
    Session = erlang:monitor(process, esdb_gater_transport:address(?SESSION, Node)),
    Pulse = esdb_gater_heartbeat:start_link(Node, State#state.silence),
    Former = esdb_gater_departed:remove(Node, State#state.former),
    ok = tell_followers({up, Node}, State),
    attach(State#state{former = Former, session = Session, pulse = Pulse, settled = false,
                       relays = maps:map(fun(_, _) -> [] end, State#state.followers)});
connected({connected, ignored}, #state{phase = connecting} = State) ->
    reconnect(nameless, State);
connected(_Result, #state{phase = connecting} = State) ->
    reconnect(unreachable, State);
connected(_Result, State) ->
    State.

%% The next one at once, until all have failed; then after a pause.
reconnect(Reason, #state{node = Node, gateways = Gateways, mode = Mode, phase = Phase} = State) ->
    _ = Mode =:= embedded andalso esdb_gater_embedded:gateway_lost(Node),
    Lost = lost(Reason, State),
    case esdb_gater_gateways:failed(Node, Gateways) of
        {0, Next} ->
            connect(Lost#state{gateways = Next});
        {Pause, Next} ->
            Warned = warn_unreachable(Phase, Reason, cancel_backoff(out_of_reach(Lost))),
            Warned#state{gateways = Next,
                         backoff_timer = erlang:send_after(Pause, self(), connect)}
    end.

%% Once per loss, when the first attempts have failed: they go on for as long as it takes.
warn_unreachable(Phase, _Reason, #state{unreachable_warned = Warned} = State)
  when Warned; Phase =:= attached ->
    State;
warn_unreachable(_Phase, Reason, #state{gateways = Gateways} = State) ->
    ?LOG_WARNING("erl_esdb_gater: no connection to the gateway: none of ~0tp can be used (~ts); "
                 "trying again until one answers",
                 [esdb_gater_gateways:to_list(Gateways), advice(Reason)],
                 #{application => erl_esdb_gater}),
    State#state{unreachable_warned = true}.

advice(nameless) -> "this node has no name; start it with -name";
advice(unreachable) -> "check that it runs, and its name, cookie and EPMD";
advice(no_answer) -> "it is connected and gives no session; its log says why";
advice(Reason) -> io_lib:format("~0tp", [Reason]).

%% Each has been tried.
out_of_reach(#state{waiting = Waiting} = State) ->
    State#state{out_of_reach = true, waiting = esdb_gater_waiters:give_up(Waiting)}.

await(What, Timeout, From, #state{waiting = Waiting} = State) ->
    State#state{waiting = esdb_gater_waiters:add(What, Timeout, From, Waiting)}.

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
                     #{application => erl_esdb_gater}),
    ok = esdb_gater_shared_state:unset(gateway),
    _ = Session =/= undefined andalso erlang:demonitor(Session, [flush]),
    stop_helper(State#state.helper),
    ok = esdb_gater_heartbeat:stop(State#state.pulse),
    cancel(State#state.phase_timer),
    %% A gateway that does not answer, or that a newer one has replaced, must not be heard
    %% again either: its messages would mix with those of the next.
    _ = lists:member(Reason, [no_answer, superseded, embedded_down])
        andalso esdb_gater_transport:disconnect(Node),
    _ = Phase =/= connecting andalso tell_followers(down, State),
    State#state{former = esdb_gater_departed:add(Node, State#state.former),
                pending = esdb_gater_pending:gateway_lost(withdraw_pending(State#state.pending)),
                phase = idle, node = undefined, session = undefined, helper = undefined,
                pulse = undefined, phase_timer = undefined, requests = gen_server:reqids_new(),
                rev = undefined, info = undefined, events = [], restoring = 0, relays = #{}}.

take_leave(Node, State) ->
    ok = tell_followers({former, Node}, State),
    ok = esdb_gater_departed:leave(Node, self()),
    State.

stop_helper(undefined) -> ok;
stop_helper({Pid, Ref}) ->
    true = erlang:demonitor(Ref, [flush]),
    true = exit(Pid, kill),
    ok.

%%% A gateway on this host is better

look_home(#state{phase = attached, mode = named, node = Node, home = undefined} = State) ->
    case esdb_gater_gateways:home(Node, State#state.gateways) of
        {ok, Home} ->
            {Pid, Ref} = esdb_gater_link:connector(Home),
            State#state{home = {Pid, Ref, Home}};
        none ->
            State
    end;
look_home(State) ->
    State.

home_reached({connected, true}, Home, #state{phase = attached, node = Node} = State) ->
    case esdb_gater_gateways:home(Node, State#state.gateways) of
        {ok, Home} ->
            ?LOG_INFO("erl_esdb_gater: going over from gateway ~ts to ~ts on this host",
                      [Node, Home], #{application => erl_esdb_gater}),
            Left = take_leave(Node, lost(moved, State)),
            Gateways = esdb_gater_gateways:succeeded(Home, Left#state.gateways),
            connect(Left#state{gateways = Gateways});
        _ ->
            State
    end;
home_reached(_Result, _Home, State) ->
    State.

%%% Attaching and restoring

attach(#state{attempt = Attempt} = State) ->
    Attaching = phase(attaching, ?PHASE_TIMEOUT, State),
    request(?SESSION, {attach, ?PROTOCOL, self(), #{}}, attach,
            Attaching#state{attempt = Attempt + 1, rev = undefined, info = undefined,
                            restoring = 0}).

%% The whole registry has come. What is missing there is registered again; until that is
%% answered nobody is told of the gateway, so who waits for one finds it all there.
registry(Registry, #state{settled = Settled, attempt = Attempt} = State) ->
    Gateway = case Settled of true -> same; false -> other end,
    {Missing, Unconfirmed} = esdb_gater_mirror:reset(Registry, Gateway),
    _ = map_size(Unconfirmed) > 0 andalso erlang:send_after(?SETTLE, self(), {settle, Attempt}),
    Sent = lists:foldl(
             fun({Store, Pid}, Acc) ->
                     request(?REGISTRY, {reassert, Store, Pid}, {restored, Attempt, Store, Pid}, Acc)
             end, monitor_wanted(State), Missing),
    restoring(Sent#state{restoring = length(Missing), unconfirmed = Unconfirmed,
                         settled = map_size(Unconfirmed) =:= 0}).

%% Both the answer to attach and the registry are needed; either may come first.
restoring(#state{phase = attaching, rev = Rev, info = Info} = State)
  when is_integer(Rev), is_map(Info) ->
    restoring(phase(restoring, ?RESTORE_TIMEOUT, State));
restoring(#state{phase = restoring, restoring = 0, relays = Relays} = State)
  when map_size(Relays) =:= 0 ->
    serve(State);
restoring(State) ->
    State.

restored(Attempt, #state{attempt = Attempt, restoring = Left} = State) when Left > 0 ->
    restoring(State#state{restoring = Left - 1});
restored(_Attempt, State) ->
    State.

relay_restored(Pid, #state{relays = Relays} = State) ->
    restoring(State#state{relays = maps:remove(Pid, Relays)}).

serve(#state{node = Node, info = Info} = State) ->
    cancel(State#state.phase_timer),
    %% Whoever read that there was none reads that there is one.
    Level = case State#state.unreachable_warned of true -> notice; false -> info end,
    ?LOG(Level, "erl_esdb_gater: attached to gateway ~ts", [Node],
         #{application => erl_esdb_gater}),
    ok = esdb_gater_shared_state:set(channels, maps:get(channels, Info, #{})),
    Attached = State#state{phase = attached, phase_timer = undefined, unreachable_warned = false,
                           out_of_reach = false,
                           gateways = esdb_gater_gateways:succeeded(Node, State#state.gateways)},
    Secret = send_secret(none, Attached),
    Events = tell_events(none, Secret),
    %% First what was taken back: it may have been registered again since.
    Withdrawn = send_withdrawals(Events),
    Flushed = lists:foldl(fun({Id, Kind, Store, Pid}, Acc) -> send(Id, Kind, Store, Pid, Acc) end,
                          Withdrawn, esdb_gater_pending:unsent(Events#state.pending)),
    ok = esdb_gater_shared_state:set(copy, ready),
    ok = esdb_gater_shared_state:set(gateway, Node),
    Woken = esdb_gater_waiters:wake(Node, Flushed#state.waiting),
    look_home(learn(maps:get(gateways, Info, []), Flushed#state{waiting = Woken})).

%% Other gateways of the same cluster are as good as those of the configuration.
learn(Members, #state{mode = named, gateways = Gateways} = State) when is_list(Members) ->
    case [G || G <- Members, is_atom(G)] of
        [] ->
            State;
        Nodes ->
            ok = esdb_gater_shared_state:set(gateways, Nodes),
            State#state{gateways = esdb_gater_gateways:learn(Nodes, Gateways)}
    end;
learn(_Members, State) ->
    State.

follower_news(#state{phase = Phase, node = Node})
  when Phase =:= restoring; Phase =:= attaching; Phase =:= attached ->
    {up, Node};
follower_news(_) ->
    down.

tell_followers(News, #state{followers = Followers}) ->
    maps:foreach(fun(Pid, _) -> Pid ! {esdb_gater_link, News} end, Followers).

%%% Registrations

carry(Kind, Store, Pid, From, #state{pending = Pending} = State) ->
    {Id, Added} = esdb_gater_pending:add(Kind, Store, Pid, From, Pending),
    case State#state.phase of
        attached -> send(Id, Kind, Store, Pid, State#state{pending = Added});
        _ -> State#state{pending = Added}
    end.

send(Id, Kind, Store, Pid, #state{pending = Pending} = State) ->
    request(?REGISTRY, {Kind, Store, Pid}, {carried, Id, Kind, Store, Pid},
            State#state{pending = esdb_gater_pending:sent(Id, Pending)}).

carried(Id, Kind, Store, Pid, Answer, #state{pending = Pending} = State) ->
    case esdb_gater_pending:take(Id, Pending) of
        {From, Rest} ->
            Done = done(Kind, Store, Pid, Answer, State#state{pending = Rest}),
            esdb_gater_pending:answer(From, Answer),
            undo_late(Store, Pid, Done);
        late when Kind =:= register, Answer =:= ok ->
            Late = esdb_gater_pending:late(Store, Pid, Pending),
            undo_late(Store, Pid, State#state{pending = Late});
        late ->
            State
    end.

expire(Id, #state{pending = Pending} = State) ->
    case esdb_gater_pending:expire(Id, Pending) of
        {_Kind, Store, Pid, Rest} -> undo_late(Store, Pid, State#state{pending = Rest});
        late -> State
    end.

%% Its caller has been told that it failed. One that is wanted was registered by another call.
%% When the gateway is lost before, it is as with any that it has not answered: nobody knows.
undo_late(Store, Pid, #state{pending = Pending, node = Node} = State) ->
    {Decided, Rest} = esdb_gater_pending:take_late(Store, Pid, Pending),
    case Decided andalso Node =/= undefined andalso not esdb_gater_desired:member(Store, Pid) of
        true -> request(?REGISTRY, {unregister, Store, Pid}, ignored, State#state{pending = Rest});
        false -> State#state{pending = Rest}
    end.

done(register, Store, Pid, ok, State) ->
    ok = esdb_gater_withdrawals:remove(Store, Pid),
    ok = esdb_gater_desired:add(Store, Pid),
    %% While a session is attached anew, its messages are not heard.
    _ = State#state.phase =:= attaching andalso esdb_gater_workers:add(Store, Pid),
    monitor_pid(Pid, State);
done(unregister, Store, Pid, ok, State) ->
    ok = esdb_gater_desired:remove(Store, Pid),
    State;
done(_Kind, _Store, _Pid, _Error, State) ->
    State.

%% Registered here, and at the gateway as soon as there is one.
assert(Store, Pid, #state{phase = Phase} = State) ->
    ok = esdb_gater_withdrawals:remove(Store, Pid),
    ok = esdb_gater_desired:add(Store, Pid),
    _ = esdb_gater_workers:add(Store, Pid),
    Watching = monitor_pid(Pid, State),
    case Phase =:= attached orelse Phase =:= restoring of
        true -> request(?REGISTRY, {register, Store, Pid}, {restored, none, Store, Pid}, Watching);
        false -> Watching
    end.

%% Gone here, and at the gateway as soon as there is one.
withdraw(Store, Pid) ->
    case esdb_gater_withdrawals:add(Store, Pid) of
        ok ->
            ok = esdb_gater_desired:remove(Store, Pid),
            _ = esdb_gater_workers:remove(Store, Pid),
            ok;
        {error, _} = Error ->
            Error
    end.

%% Whether the gateway has carried them out before it was lost does not matter: the next is told.
withdraw_pending(Pending) ->
    {Unregistrations, Rest} = esdb_gater_pending:take_unregistrations(Pending),
    lists:foreach(fun({Store, Pid, From}) ->
                      esdb_gater_pending:answer(From, withdraw(Store, Pid))
                  end, Unregistrations),
    Rest.

send_withdrawals(State) ->
    lists:foldl(fun({Store, Pid}, Acc) ->
                    request(?REGISTRY, {unregister, Store, Pid}, {withdrawn, Store, Pid}, Acc)
                end, State, esdb_gater_withdrawals:all()).

%% Looked at now and then: what should be registered and is not, and the other way round.
reassert(#state{phase = attached} = State) ->
    lists:foldl(
      fun({Store, Pid}, Acc) ->
              case esdb_gater_workers:member(Store, Pid) of
                  true -> Acc;
                  false -> request(?REGISTRY, {reassert, Store, Pid},
                                   {restored, none, Store, Pid}, Acc)
              end
      end, monitor_wanted(send_withdrawals(State)), esdb_gater_desired:active());
reassert(State) ->
    State.

reassert_in(Ms, #state{reassert_timer = Timer} = State) ->
    cancel(Timer),
    State#state{reassert_timer = erlang:send_after(Ms, self(), reassert)}.

%% Many nodes that were started together do not ask together.
reassert_pause() ->
    ?REASSERT * 3 div 4 + rand:uniform(?REASSERT div 2).

monitor_wanted(State) ->
    lists:foldl(fun monitor_pid/2, State, esdb_gater_desired:processes()).

monitor_pid(Pid, #state{monitors = Monitors} = State) ->
    case Monitors of
        #{Pid := _} -> State;
        _ -> State#state{monitors = Monitors#{Pid => erlang:monitor(process, Pid)}}
    end.

%%% Requests to the gateway

request(Name, Request, Label, #state{node = Node, requests = Requests} = State) ->
    To = esdb_gater_transport:address(Name, Node),
    State#state{requests = gen_server:send_request(To, Request, Label, Requests)}.

maybe_response(Message, #state{requests = Requests} = State) ->
    case gen_server:check_response(Message, Requests, true) of
        {{reply, Reply}, Label, Rest} ->
            response(Label, Reply, State#state{requests = Rest});
        {{error, _}, Label, Rest} ->
            failed(Label, State#state{requests = Rest});
        _ ->
            State
    end.

response({carried, Id, Kind, Store, Pid}, Answer, State) ->
    carried(Id, Kind, Store, Pid, Answer, State);
response({restored, Attempt, Store, Pid}, Answer, State) ->
    case Answer of
        ok ->
            %% Until the registry has come, what is offered is not heard.
            _ = State#state.rev =/= undefined andalso esdb_gater_mirror:repeated(Store, Pid),
            restored(Attempt, State);
        {error, Gone} when Gone =:= noproc; Gone =:= badarg; Gone =:= unregistered ->
            %% It has ended, or somebody has unregistered it while this node was away.
            ok = esdb_gater_desired:remove(Store, Pid),
            _ = esdb_gater_workers:remove(Store, Pid),
            restored(Attempt, State);
        _ ->
            restored(Attempt, reassert_in(?REASSERT_SOON + rand:uniform(?REASSERT_SOON), State))
    end;
response({withdrawn, Store, Pid}, Answer, State) ->
    case Answer of
        ok ->
            ok = esdb_gater_withdrawals:remove(Store, Pid),
            State;
        _ ->
            reassert_in(?REASSERT_SOON + rand:uniform(?REASSERT_SOON), State)
    end;
response(attach, {ok, Info}, State) when is_map(Info) ->
    restoring(State#state{info = Info});
response(attach, Answer, #state{node = Node} = State) ->
    ?LOG_ERROR("erl_esdb_gater: gateway ~ts refuses the session: ~tp", [Node, Answer],
               #{application => erl_esdb_gater}),
    reconnect(no_answer, State);
response({told, From}, _Answer, State) ->
    esdb_gater_pending:answer(From, ok),
    State;
response(ignored, _Answer, State) ->
    State.

%% The service is not there, or the connection is going: its monitor says so as well.
failed({restored, Attempt, _, _}, State) -> restored(Attempt, State);
failed({told, From}, State) -> esdb_gater_pending:answer(From, ok), State;
failed(_Label, State) -> State.

tell_events(From, #state{phase = Phase, events = Known} = State) ->
    case esdb_gater_telemetry:gateway_events() of
        Events when Phase =:= attached, Events =/= Known ->
            request(?SESSION, {events, self(), Events}, {told, From},
                    State#state{events = Events});
        _ ->
            esdb_gater_pending:answer(From, ok),
            State
    end.

send_secret(From, #state{phase = Phase} = State) ->
    Pushed = esdb_gater_shared_state:get(push_secret) =:= {ok, true},
    case Pushed andalso Phase =:= attached of
        true ->
            request(?SESSION, {set_secret, esdb_pubsub_security:get_secret()}, {told, From}, State);
        false ->
            esdb_gater_pending:answer(From, ok),
            State
    end.

cancel(undefined) -> ok;
cancel(Timer) -> _ = erlang:cancel_timer(Timer), ok.
