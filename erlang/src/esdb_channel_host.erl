%%% @private
%%% @doc A channel that a process of this BEAM hosts, with the callbacks of an {@link esdb_channel}
%%% module, and the calls to such channels from any node.
%%%
%%% On its own node the process is found by a persistent term, and from other nodes by the registry
%%% of workers, in which it is registered for a store of its own, `esdb_channel_host:NAME'. It is
%%% therefore known wherever there is a gateway, forgotten when it ends, and registered again when a
%%% gateway is lost. A linked process registers it, because registering may have to wait.
%%%
%%% Several nodes may host the same channel. A publication is sent to one host, which checks it,
%%% delivers it to its own subscribers and passes it to the other hosts, which deliver it to theirs.
%%% A publisher always uses the same host as long as that lives, and messages between two hosts keep
%%% their order, so the order of a publisher is preserved.
%%% @end
-module(esdb_channel_host).

-behaviour(gen_server).

-include("../include/esdb_capability_types.hrl").
-include("../include/esdb_gater_telemetry.hrl").
-include_lib("kernel/include/logger.hrl").

-export([start_link/2, hosts/1, is_store/1]).
-export([subscribe/3, unsubscribe/3, publish/2, get_subscribers/2]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-define(PREFIX, "esdb_channel_host:").
-define(LOCAL(Channel), {?MODULE, Channel}).
-define(TIMEOUT, 5000).                 % ms a host has for an answer
-define(ANNOUNCE_AGAIN, 1000).          % ms after the registry has refused it

-record(state, {
    channel :: atom(),
    module :: module(),
    max_rate :: pos_integer() | infinity,
    signed :: boolean(),
    capability :: boolean(),                % the channel asks for tokens, whatever the node does
    user :: term(),                         % the module's state
    announcer :: pid(),
    subscribers = #{} :: #{Topic :: binary() => #{pid() => []}},
    watched = #{} :: #{pid() => {reference(), #{Topic :: binary() => []}}}
}).

%% @doc Starts the channel of a module under the name in the option `name', which defaults to the
%% name of the module.
-spec start_link(module(), map()) -> {ok, pid()} | ignore | {error, term()}.
start_link(Module, Options) ->
    Channel = maps:get(name, Options, Module),
    gen_server:start_link({local, Channel}, ?MODULE, {Channel, Module, Options}, []).

%% @doc Returns the processes that host a channel, the one on this node first. The list is empty for
%% a channel of gateways.
-spec hosts(atom()) -> [pid()].
hosts(Channel) ->
    case esdb_gater_relay:find(Channel) of
        {ok, _Relay} -> [];
        none -> hosted(persistent_term:get(?LOCAL(Channel), none), Channel)
    end.

hosted(Pid, Channel) when is_pid(Pid) ->
    case is_process_alive(Pid) of
        true -> [Pid | lists:delete(Pid, remote(Channel))];
        false -> remote(Channel)
    end;
hosted(none, Channel) ->
    remote(Channel).

remote(Channel) ->
    try binary_to_existing_atom(store_name(Channel)) of
        Store -> [Pid || {_, Pid} <- esdb_gater_workers:list(Store)]
    catch
        error:_ -> []                              % nobody has made that name an atom
    end.

store_name(Channel) ->
    <<?PREFIX, (atom_to_binary(Channel))/binary>>.

%% @doc Returns whether the name of a store in the registry is that of a channel.
-spec is_store(atom()) -> boolean().
is_store(Store) ->
    lists:prefix(?PREFIX, atom_to_list(Store)).

%%% Functions for esdb_channel_server

%% @doc Subscribes a process at the host on its own node, or at the first host.
-spec subscribe([pid(), ...], pid(), Request :: tuple()) -> ok | {error, term()}.
subscribe(Hosts, Pid, Request) ->
    call_one(near(Pid, Hosts), Request).

%% @doc Unsubscribes a process at every host where it is subscribed.
-spec unsubscribe([pid(), ...], binary(), pid()) -> ok | {error, term()}.
unsubscribe(Hosts, Topic, Pid) ->
    Answers = [call_one([Host], {unsubscribe, Topic, Pid}) || Host <- near(Pid, Hosts)],
    case [Error || {error, _} = Error <- Answers] of
        [] -> ok;
        [Error | _] -> Error
    end.

%% @doc Publishes through the first host that is alive.
-spec publish([pid(), ...], Request :: tuple()) -> ok | {error, term()}.
publish(Hosts, Request) ->
    call_one(Hosts, Request).

%% @doc Returns the subscribers of all hosts that answer.
-spec get_subscribers([pid(), ...], binary()) -> [pid()].
get_subscribers(Hosts, Topic) ->
    lists:usort(lists:append([Pids || Host <- Hosts,
                                      Pids <- [call_one([Host], {get_subscribers, Topic})],
                                      is_list(Pids)])).

near(Pid, Hosts) ->
    {Near, Far} = lists:partition(fun(Host) -> node(Host) =:= node(Pid) end, Hosts),
    Near ++ Far.

%% A host that has ended has not handled the request, so the next host is called. A host that does
%% not answer may have handled it.
call_one([], _Request) ->
    {error, channel_down};
call_one([Host | Hosts], Request) ->
    try gen_server:call(Host, Request, ?TIMEOUT)
    catch
        exit:{noproc, _} -> call_one(Hosts, Request);
        exit:_ -> {error, channel_down}
    end.

%%% The process

-spec init({atom(), module(), map()}) -> {ok, #state{}} | {stop, term()}.
init({Channel, Module, Options}) ->
    process_flag(trap_exit, true),
    case started(Module, Options) of
        {ok, User} ->
            ok = persistent_term:put(?LOCAL(Channel), self()),
            Store = binary_to_atom(store_name(Channel)),
            Host = self(),
            Announcer = spawn_link(fun() -> announce(Store, Host) end),
            {ok, #state{channel = Channel, module = Module, user = User, announcer = Announcer,
                        max_rate = optional(Module, max_rate, infinity),
                        signed = optional(Module, requires_signature, false),
                        capability = optional(Module, requires_capability, false)}};
        {error, Reason} ->
            {stop, Reason}
    end.

started(Module, Options) ->
    case has(Module, init, 1) of
        true -> Module:init(Options);
        false -> {ok, undefined}
    end.

optional(Module, Function, Default) ->
    case has(Module, Function, 0) of
        true -> Module:Function();
        false -> Default
    end.

has(Module, Function, Arity) ->
    _ = code:ensure_loaded(Module),
    erlang:function_exported(Module, Function, Arity).

-spec handle_call(term(), gen_server:from(), #state{}) -> {reply, term(), #state{}}.
handle_call(Request, _From, State) ->
    {Answer, Next} = request(Request, State),
    {reply, Answer, Next}.

request({publish, Topic, Message}, State) ->
    publish(Topic, Message, none, State);
request({publish, Topic, Message, Token}, State) ->
    publish(Topic, Message, {token, Token}, State);
request({subscribe, Topic, Pid}, State) ->
    subscribe(Topic, Pid, none, State);
request({subscribe, Topic, Pid, Token}, State) ->
    subscribe(Topic, Pid, {token, Token}, State);
request({unsubscribe, Topic, Pid}, State) ->
    case is_subscribed(Topic, Pid, State) of
        true -> unsubscribe_known(Topic, Pid, State);
        false -> {ok, State}
    end;
request({get_subscribers, Topic}, State) ->
    {maps:keys(subscribers(Topic, State)), State};
request(Request, State) ->
    {{error, {unknown_request, Request}}, State}.

publish(Topic, Message, Token, State) ->
    Checks = [fun() -> esdb_gater_bounds:topic(Topic) end,
              fun() -> authorized(Topic, ?ACTION_CHANNEL_PUBLISH, Token, State) end,
              fun() -> admitted(Topic, Message, State) end],
    case all_of(Checks) of
        ok -> publish_admitted(Topic, Message, State);
        {error, _} = Error -> {Error, State}
    end.

subscribe(Topic, Pid, Token, State) when is_pid(Pid) ->
    Checks = [fun() -> esdb_gater_bounds:topic(Topic) end,
              fun() -> authorized(Topic, ?ACTION_CHANNEL_SUBSCRIBE, Token, State) end],
    case {all_of(Checks), is_subscribed(Topic, Pid, State)} of
        {ok, true} -> {ok, State};
        {ok, false} -> subscribe_new(Topic, Pid, State);
        {{error, _} = Error, _} -> {Error, State}
    end;
subscribe(_Topic, _Pid, _Token, State) ->
    {{error, badarg}, State}.

all_of([]) -> ok;
all_of([Check | Checks]) ->
    case Check() of
        ok -> all_of(Checks);
        {error, _} = Error -> Error
    end.

authorized(Topic, Action, Token, #state{channel = Channel, capability = Requires}) ->
    Mode = esdb_gater_config:effective_capability_mode(Requires),
    esdb_gater_verifier:admit(Mode, Token, esdb_gater_verifier:resource(Channel, Topic), Action).

-spec handle_cast(term(), #state{}) -> {noreply, #state{}}.
handle_cast({deliver, Topic, Message}, State) ->
    ok = deliver(Topic, Message, State),
    {noreply, State};
handle_cast({Kind, Topic, _} = Request, State)
  when is_binary(Topic), (Kind =:= subscribe orelse Kind =:= unsubscribe orelse Kind =:= publish) ->
    {_, Next} = request(Request, State),
    {noreply, Next};
handle_cast(Message, State) ->
    {noreply, other(Message, State)}.

-spec handle_info(term(), #state{}) -> {noreply, #state{}} | {stop, term(), #state{}}.
handle_info({'DOWN', Ref, process, Pid, _} = Message, #state{watched = Watched} = State) ->
    case Watched of
        #{Pid := {Ref, Topics}} ->
            Gone = maps:fold(fun(Topic, [], Acc) -> ended(Topic, Pid, Acc) end, State, Topics),
            {noreply, Gone#state{watched = maps:remove(Pid, Watched)}};
        _ ->
            {noreply, other(Message, State)}
    end;
%% The message comes from a node of the original library, which has checked it.
handle_info({channel_message, Channel, Topic, Message}, #state{channel = Channel} = State) ->
    ok = deliver(Topic, Message, State),
    {noreply, State};
handle_info({'EXIT', Announcer, Reason}, #state{announcer = Announcer} = State) ->
    {stop, Reason, State};
handle_info(Message, State) ->
    {noreply, other(Message, State)}.

-spec terminate(term(), #state{}) -> ok.
terminate(Reason, #state{channel = Channel, module = Module, user = User, announcer = Announcer}) ->
    true = exit(Announcer, kill),
    _ = persistent_term:erase(?LOCAL(Channel)),
    _ = has(Module, terminate, 2) andalso
        try Module:terminate(Reason, User)
        catch Class:Why:Stack -> failed(Channel, terminate, {Class, Why, Stack})
        end,
    ok.

%%% Publishing

%% The order of the checks is that of a channel of a gateway.
admitted(Topic, Message, #state{signed = true} = State) ->
    case is_map(Message) andalso is_map_key(signature, Message) of
        true ->
            case check_rate(Topic, State) of
                ok -> esdb_pubsub_security:verify(Message);
                {error, _} = Error -> Error
            end;
        false ->
            {error, signature_required}
    end;
admitted(Topic, _Message, State) ->
    check_rate(Topic, State).

check_rate(Topic, #state{channel = Channel, max_rate = MaxRate}) ->
    esdb_pubsub_security:check_rate(?LOCAL(Channel), Topic, MaxRate).

publish_admitted(Topic, Message, #state{channel = Channel} = State) ->
    case callback(handle_publish, [Topic, Message], State) of
        {ok, Next} ->
            ok = deliver(Topic, Message, Next),
            lists:foreach(fun(Host) -> gen_server:cast(Host, {deliver, Topic, Message}) end,
                          lists:delete(self(), remote(Channel))),
            {ok, Next};
        {error, _} = Error ->
            {Error, State}
    end.

deliver(Topic, Message, #state{channel = Channel} = State) ->
    Sent = {channel_message, Channel, Topic, Message},
    Pids = subscribers(Topic, State),
    maps:foreach(fun(Pid, []) -> Pid ! Sent end, Pids),
    esdb_gater_telemetry:emit(?GATER_CHANNEL_BROADCAST, #{recipient_count => map_size(Pids)},
                              #{channel => Channel, topic => Topic}).

subscribers(Topic, #state{subscribers = Subscribers}) ->
    maps:get(Topic, Subscribers, #{}).

%%% Subscribing

is_subscribed(Topic, Pid, State) -> is_map_key(Pid, subscribers(Topic, State)).

subscribe_new(Topic, Pid, State) ->
    case callback(handle_subscribe, [Topic, Pid], State) of
        {ok, Next} -> {ok, watched(Topic, Pid, added(Topic, Pid, Next))};
        {error, _} = Error -> {Error, State}
    end.

unsubscribe_known(Topic, Pid, State) ->
    case callback(handle_unsubscribe, [Topic, Pid], State) of
        {ok, Next} -> {ok, unwatched(Topic, Pid, removed(Topic, Pid, Next))};
        {error, _} = Error -> {Error, State}
    end.

added(Topic, Pid, #state{subscribers = Subscribers} = State) ->
    Pids = subscribers(Topic, State),
    ok = esdb_gater_lineage:topic_changed(self(), Topic, true),
    State#state{subscribers = Subscribers#{Topic => Pids#{Pid => []}}}.

removed(Topic, Pid, #state{subscribers = Subscribers} = State) ->
    Fewer = case maps:remove(Pid, subscribers(Topic, State)) of
                None when map_size(None) =:= 0 ->
                    ok = esdb_gater_lineage:topic_changed(self(), Topic, false),
                    maps:remove(Topic, Subscribers);
                Left ->
                    Subscribers#{Topic := Left}
            end,
    State#state{subscribers = Fewer}.

ended(Topic, Pid, State) ->
    case callback(handle_unsubscribe, [Topic, Pid], State) of
        {ok, Next} -> removed(Topic, Pid, Next);
        {error, _} -> removed(Topic, Pid, State)
    end.

watched(Topic, Pid, #state{watched = Watched} = State) ->
    {Ref, Topics} = case Watched of
                        #{Pid := Known} -> Known;
                        _ -> {erlang:monitor(process, Pid), #{}}
                    end,
    State#state{watched = Watched#{Pid => {Ref, Topics#{Topic => []}}}}.

unwatched(Topic, Pid, #state{watched = Watched} = State) ->
    #{Pid := {Ref, Topics}} = Watched,
    case maps:remove(Topic, Topics) of
        None when map_size(None) =:= 0 ->
            true = erlang:demonitor(Ref, [flush]),
            State#state{watched = maps:remove(Pid, Watched)};
        Left ->
            State#state{watched = Watched#{Pid := {Ref, Left}}}
    end.

%%% The module's callbacks

other(Message, State) ->
    case callback(handle_message, [Message], State) of
        {ok, Next} -> Next;
        {error, _} -> State
    end.

callback(Function, Arguments, #state{channel = Channel, module = Module, user = User} = State) ->
    case has(Module, Function, length(Arguments) + 1) of
        false ->
            {ok, State};
        true ->
            try apply(Module, Function, Arguments ++ [User]) of
                {ok, Next} -> {ok, State#state{user = Next}};
                {error, _} = Error -> Error;
                Other -> failed(Channel, Function, {returned, Other})
            catch
                Class:Reason:Stack -> failed(Channel, Function, {Class, Reason, Stack})
            end
    end.

failed(Channel, Function, Problem) ->
    ?LOG_ERROR("erl_esdb_gater: callback ~ts of channel ~ts has failed: ~tp",
               [Function, Channel, Problem]),
    {error, {callback_failed, Function}}.

%%% Being found from other nodes

%% The registration is kept until the application that keeps registrations ends.
announce(Store, Host) ->
    case esdb_gater_api:register_worker(Store, Host) of
        ok ->
            Ref = erlang:monitor(process, erl_esdb_gater_sup),
            receive {'DOWN', Ref, process, _, _} -> ok end;
        {error, _} ->
            timer:sleep(?ANNOUNCE_AGAIN)
    end,
    announce(Store, Host).
