%%% @private
%%% @doc The embedded gateway that connected nodes share: one of them hosts it, and the others use
%%% it.
%%%
%%% This process runs on every node whose configuration names no gateways, and is registered under
%%% the name of this module. It knows the same processes on the connected visible nodes, announces
%%% its status to them whenever that changes, and carries out the result of {@link
%%% esdb_gater_election}: it has {@link esdb_gater_port} start or stop the program, and tells the
%%% link which gateway to use. There is no other agreement, no lock and no leader.
%%%
%%% <ul>
%%% <li>A node without other nodes starts a gateway at once. A node with others waits for their
%%%     statuses, for at most a second.</li>
%%% <li>When the host or the connection to it is lost, the next member in turn starts a gateway. The
%%%     others wait for it, and pass it over if it does not start one in time.</li>
%%% <li>If two nodes turn out to host a gateway, as after a netsplit, the younger one uses the
%%%     gateway of the elder one, and stops its own when the others have had time to leave.</li>
%%% <li>A host whose gateway cannot be reached is passed over, too: at once if the host itself does
%%%     not answer although its connection exists, and otherwise after several attempts.</li>
%%% </ul>
%%% The processes exchange `{esdb_gater_embedded, 1, hello | status, Node, Status}', where `hello'
%%% asks for a status in return. A node without a secret of its own calls `secret'.
%%% @end
-module(esdb_gater_embedded).

-behaviour(gen_server).

-include_lib("kernel/include/logger.hrl").

-export([start_link/0, port_started/0, program_up/1, program_down/0, program_fails/0, renamed/0,
         gateway_lost/1, status/0]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-define(PROTOCOL, 1).
-define(GATHER, 1000).                  % ms to wait for what others tell before hosting
-define(AWAIT, 1000).                   % ms for the one whose turn it is to begin
-define(AWAIT_START, 10000).            % ms for a gateway to serve after its host has begun
-define(PROBE, 1000).                   % ms for a host to show that it lives
-define(PROBE_OWN, 5000).               % ms for this node's program to
-define(UNREACHED, 5).                  % probes after which a host that answers is passed over
-define(LINGER, 1000).                  % ms that a gateway runs on for those who still use it
-define(SECRET_TIMEOUT, 1000).

-record(state, {
    born :: integer(),
    able = true :: boolean(),
    role = seeking :: seeking | guest | {hosting, Since :: integer()},
    program = none :: node() | none,        % ours, when it can serve
    using = none :: {Host :: node(), Gateway :: node()} | none,
    peers = #{} :: #{node() => {reference(), esdb_gater_election:status() | unknown}},
    told = none :: esdb_gater_election:status() | none,     % to the others
    passed = [] :: [node()],
    gather :: reference() | undefined,
    await :: {node(), Milliseconds :: pos_integer(), reference()} | undefined,
    probe :: {node(), reference()} | undefined,
    answers = false :: boolean(),           % the host that is probed has answered
    unreached = 0 :: non_neg_integer(),     % probes in a row after which its gateway was not
    linger :: reference() | undefined
}).

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc Reports that the process that runs the program has started, without a program.
-spec port_started() -> ok.
port_started() ->
    gen_server:cast(?MODULE, port_started).

%% @doc Reports that the program of this node is ready.
-spec program_up(node()) -> ok.
program_up(Gateway) ->
    gen_server:cast(?MODULE, {program_up, Gateway}).

%% @doc Reports that the program of this node has ended and is being restarted.
-spec program_down() -> ok.
program_down() ->
    gen_server:cast(?MODULE, program_down).

%% @doc Reports that the program of this node is missing or has failed several times in a row.
-spec program_fails() -> ok.
program_fails() ->
    ok = esdb_gater_link:out_of_reach(),
    gen_server:cast(?MODULE, program_fails).

%% @doc Reports that this node has another name, under which it is a new member.
-spec renamed() -> ok.
renamed() ->
    gen_server:cast(?MODULE, renamed).

%% @doc Reports that the link has lost this gateway or cannot reach it.
-spec gateway_lost(node()) -> ok.
gateway_lost(Gateway) ->
    gen_server:cast(?MODULE, {gateway_lost, Gateway}).

%% @doc Returns the role of this node and its knowledge of the others, for tests and people.
-spec status() -> map().
status() ->
    gen_server:call(?MODULE, status).

-spec init([]) -> {ok, #state{}, {continue, start}}.
init([]) ->
    process_flag(trap_exit, true),
    _ = net_kernel:monitor_nodes(true, [{node_type, visible}]),
    %% After a crash of this process the program still runs, and the link uses the same gateway.
    Born = kept(born, fun now_us/0),
    State = case {esdb_gater_shared_state:get(hosting), esdb_gater_shared_state:get(program)} of
                {{ok, Since}, {ok, Program}} ->
                    #state{born = Born, role = {hosting, Since}, program = Program,
                           using = {node(), Program}};
                {{ok, Since}, none} ->
                    #state{born = Born, role = {hosting, Since}};
                _ ->
                    #state{born = Born}
            end,
    {ok, State, {continue, start}}.

-spec handle_continue(start, #state{}) -> {noreply, #state{}}.
handle_continue(start, State) ->
    {noreply, decide(lists:foldl(fun met/2, State, nodes()))}.

-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, term(), #state{}}.
handle_call(secret, _From, State) ->
    {reply, esdb_pubsub_security:get_secret(), State};
handle_call(status, _From, #state{using = Using, passed = Passed} = State) ->
    {reply, (own(State))#{using => Using, passed => Passed, peers => members(State)}, State};
handle_call(Request, _From, State) ->
    {reply, {error, {unknown_request, Request}}, State}.

-spec handle_cast(term(), #state{}) ->
          {noreply, #state{}} | {noreply, #state{}, {continue, start}}.
handle_cast({program_up, Gateway}, #state{role = {hosting, _}} = State) ->
    {noreply, decide(State#state{program = Gateway, able = true})};
handle_cast({program_up, Gateway}, State) ->
    %% Another node hosts the gateway by now.
    {noreply, linger(State#state{program = Gateway})};
handle_cast(Down, State) when Down =:= program_down; Down =:= port_started ->
    {noreply, decide(not_using(own, State#state{program = none}))};
handle_cast(program_fails, #state{role = {hosting, _}} = State) ->
    ok = esdb_gater_shared_state:unset(hosting),
    case decide(State#state{program = none, able = false, role = seeking}) of
        #state{role = {hosting, _}} = Tries -> {noreply, Tries};
        Next -> {noreply, stop_program(Next)}
    end;
handle_cast({gateway_lost, Gateway}, #state{using = {Host, Gateway}, probe = undefined} = State) ->
    %% An answer shows that the host is alive.
    _ = Host =/= node() andalso say(hello, Host, State),
    Timeout = case Host =:= node() of true -> ?PROBE_OWN; false -> ?PROBE end,
    {noreply, State#state{probe = {Host, erlang:start_timer(Timeout, self(), probe)},
                          answers = false}};
handle_cast(renamed, #state{peers = Peers}) ->
    maps:foreach(fun(_, {Ref, _}) -> erlang:demonitor(Ref, [flush]) end, Peers),
    [esdb_gater_shared_state:unset(Fact) || Fact <- [embedded, hosting, born]],
    ok = esdb_gater_link:embedded_down(),
    {noreply, #state{born = kept(born, fun now_us/0)}, {continue, start}};
handle_cast({adopted, Using}, #state{using = Using} = State) ->
    {noreply, use(Using, State)};
handle_cast(_Message, State) ->
    {noreply, State}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}}.
handle_info({?MODULE, ?PROTOCOL, Kind, Node, Status}, State)
  when is_atom(Node), Kind =:= hello orelse Kind =:= status ->
    case esdb_gater_election:is_status(Status) andalso lists:member(Node, nodes()) of
        true -> {noreply, decide(heard(Kind, Node, Status, State))};
        false -> {noreply, State}
    end;
handle_info({nodeup, Node, _}, State) ->
    {noreply, met(Node, State)};
handle_info({'DOWN', Ref, process, {?MODULE, Node}, _}, #state{peers = Peers} = State) ->
    case Peers of
        #{Node := {Ref, _}} ->
            Fewer = State#state{peers = maps:remove(Node, Peers)},
            {noreply, decide(answered(Node, Fewer))};
        _ ->
            {noreply, State}
    end;
handle_info({timeout, Timer, gather}, #state{gather = Timer, peers = Peers} = State) ->
    Silent = [Node || {Node, {_, unknown}} <- maps:to_list(Peers)],
    {noreply, decide(State#state{gather = undefined,
                                 passed = lists:usort(Silent ++ State#state.passed)})};
handle_info({timeout, Timer, await}, #state{await = {Node, _, Timer}} = State) ->
    {noreply, decide(pass(Node, State#state{await = undefined}))};
handle_info({timeout, Timer, probe}, #state{probe = {Host, Timer}} = State) ->
    {noreply, decide(probed(Host, State#state{probe = undefined}))};
handle_info({timeout, Timer, linger}, #state{linger = Timer, role = Role} = State) ->
    case Role of
        {hosting, _} -> {noreply, State#state{linger = undefined}};
        _ -> {noreply, stop_program(State#state{linger = undefined})}
    end;
handle_info(_Message, State) ->
    {noreply, State}.

-spec terminate(term(), #state{}) -> ok.
terminate(Reason, _State) when Reason =:= shutdown; Reason =:= normal ->
    [esdb_gater_shared_state:unset(Fact) || Fact <- [embedded, hosting, born]],
    ok;
terminate(_Reason, _State) ->
    ok.

%%% The other members

%% Handles a node that has connected. If this process does not run there, the node takes no part,
%% which the monitor reports.
met(Node, #state{peers = Peers} = State) when is_map_key(Node, Peers) ->
    State;
met(Node, #state{peers = Peers} = State) ->
    Ref = erlang:monitor(process, {?MODULE, Node}),
    say(hello, Node, State),
    State#state{peers = Peers#{Node => {Ref, unknown}}}.

heard(Kind, Node, Status, State) ->
    #state{peers = #{Node := {Ref, _}} = Peers} = Met = met(Node, State),
    _ = Kind =:= hello andalso say(status, Node, Met),
    answered(Node, Met#state{peers = Peers#{Node := {Ref, Status}}}).

%% An answer shows that the member is alive, whatever was assumed before.
answered(Node, #state{passed = Passed, probe = Probe, answers = Answers} = State) ->
    State#state{passed = lists:delete(Node, Passed),
                answers = Answers orelse is_tuple(Probe) andalso element(1, Probe) =:= Node}.

pass(Node, #state{passed = Passed} = State) ->
    State#state{passed = lists:usort([Node | Passed])}.

say(Kind, Node, State) ->
    Message = {?MODULE, ?PROTOCOL, Kind, node(), own(State)},
    _ = erlang:send({?MODULE, Node}, Message, [noconnect, nosuspend]),
    ok.

own(#state{born = Born, able = Able, role = Role, program = Program}) ->
    Told = case Role of
               {hosting, Since} -> {hosting, Since, Program};
               _ -> Role
           end,
    #{born => Born, able => Able, role => Told}.

members(#state{peers = Peers} = State) ->
    Others = maps:fold(fun(_, {_, unknown}, Acc) -> Acc;
                          (Node, {_, Status}, Acc) -> Acc#{Node => Status}
                       end, #{}, Peers),
    Others#{node() => own(State)}.

%%% Deciding

decide(#state{passed = Passed} = State) ->
    Members = members(State),
    Done = follow(esdb_gater_election:choose(node(), Members, Passed), Members, State),
    tell(Done).

tell(#state{told = Told, peers = Peers} = State) ->
    case own(State) of
        Told ->
            State;
        Status ->
            lists:foreach(fun(Node) -> say(status, Node, State) end, maps:keys(Peers)),
            State#state{told = Status}
    end.

follow(host, _Members, #state{role = {hosting, _}, program = none} = State) ->
    run(not_waiting(State));
follow(host, Members, #state{role = {hosting, _}, program = Program} = State) ->
    Serving = start_using({node(), Program}, not_waiting(State)),
    case esdb_gater_election:scope(node(), Members) of
        open -> run(Serving);                  % again, unless it is open already
        loopback -> Serving
    end;
follow(host, _Members, State) ->
    case is_gathered(State) of
        true ->
            Since = now_us(),
            ok = esdb_gater_shared_state:set(hosting, Since),
            Hosting = not_waiting(State#state{role = {hosting, Since}}),
            follow(host, members(Hosting), Hosting);
        {false, Waiting} ->
            Waiting
    end;
follow({use, Host, Gateway}, _Members, State) ->
    start_using({Host, Gateway}, step_down(guest, not_waiting(State)));
follow({await, Node}, Members, State) ->
    await(Node, Members, step_down(seeking, not_using(other, State))).

%% No node starts a gateway before the others have had time to announce theirs.
is_gathered(#state{peers = Peers, passed = Passed, gather = Timer} = State) ->
    case [Node || {Node, {_, unknown}} <- maps:to_list(Peers), not lists:member(Node, Passed)] of
        [] -> true;
        _ when Timer =/= undefined -> {false, State};
        _ -> {false, State#state{gather = erlang:start_timer(?GATHER, self(), gather)}}
    end.

await(Node, Members, #state{await = Await} = State) ->
    Timeout = case Members of
                  #{Node := #{role := {hosting, _, _}}} -> ?AWAIT_START;
                  _ -> ?AWAIT
              end,
    case Await of
        {Node, Timeout, _} -> State;
        _ -> State#state{await = {Node, Timeout, erlang:start_timer(Timeout, self(), await)}}
    end.

not_waiting(State) ->
    State#state{await = undefined, gather = undefined}.

%% The gateway was lost some time ago. Either its host is silent, or only the gateway is out of
%% reach.
probed(Host, #state{using = {Host, Gateway}, answers = Answers, unreached = Unreached} = State) ->
    case esdb_gater_shared_state:get(gateway) of
        {ok, Gateway} ->
            State#state{unreached = 0};
        _ when Host =:= node() ->
            ok = esdb_gater_port:kill(),
            State;
        _ when Answers, Unreached + 1 < ?UNREACHED ->
            State#state{unreached = Unreached + 1};
        _ ->
            ?LOG_WARNING("erl_esdb_gater: the gateway ~ts of ~ts cannot be reached", [Gateway, Host],
                         #{application => erl_esdb_gater}),
            pass(Host, State#state{unreached = 0})
    end;
probed(_Host, State) ->
    State#state{unreached = 0}.

%%% Hosting

run(State) ->
    ok = esdb_gater_port:run(esdb_gater_election:scope(node(), members(State))),
    State.

step_down(Role, #state{role = {hosting, _}} = State) ->
    ok = esdb_gater_shared_state:unset(hosting),
    linger(State#state{role = Role});
step_down(Role, State) ->
    State#state{role = Role}.

%% The nodes that use this node's gateway receive the same status as this node did.
linger(#state{program = none} = State) ->
    stop_program(State);
linger(#state{linger = undefined} = State) ->
    State#state{linger = erlang:start_timer(?LINGER, self(), linger)};
linger(State) ->
    State.

stop_program(State) ->
    ok = esdb_gater_port:stop(),
    State#state{program = none}.

%%% Using

start_using(Using, #state{using = Using} = State) ->
    State;
start_using({Host, Gateway} = Using, State) ->
    ?LOG_INFO("erl_esdb_gater: using the gateway ~ts of ~ts", [Gateway, Host],
              #{application => erl_esdb_gater}),
    case Host =/= node() andalso esdb_pubsub_security:is_generated() of
        true -> ok = adopt(Using), State#state{using = Using};
        false -> use(Using, State)
    end.

use({_, Gateway} = Using, State) ->
    ok = esdb_gater_shared_state:set(embedded, Gateway),
    ok = esdb_gater_link:embedded_up(Gateway),
    State#state{using = Using}.

%% A node without a secret adopts that of the host, since no signature of it would verify otherwise.
%% A separate process does so, so that the secret is in no state and no message of this process.
adopt({Host, _} = Using) ->
    Self = self(),
    _ = spawn(fun() ->
                  try gen_server:call({?MODULE, Host}, secret, ?SECRET_TIMEOUT) of
                      Secret when is_binary(Secret) -> esdb_pubsub_security:adopt(Secret);
                      _ -> ok
                  catch
                      exit:_ -> ok
                  end,
                  gen_server:cast(Self, {adopted, Using})
              end),
    ok.

%% Either this node's own gateway has ended, or the gateway of another node is no longer to be used.
not_using(_Which, #state{using = none} = State) ->
    State;
not_using(own, #state{using = {Host, _}} = State) when Host =/= node() ->
    State;
not_using(_Which, State) ->
    ok = esdb_gater_shared_state:unset(embedded),
    ok = esdb_gater_link:embedded_down(),
    State#state{using = none}.

kept(Fact, Make) ->
    case esdb_gater_shared_state:get(Fact) of
        {ok, Value} -> Value;
        none -> Value = Make(), ok = esdb_gater_shared_state:set(Fact, Value), Value
    end.

now_us() ->
    erlang:system_time(microsecond).
