%%% @doc Channels: publishing messages and subscribing to them.
%%%
%%% A channel has a priority, a rate and a rule for signatures; a topic is a binary of 1 to 255
%%% bytes. A subscriber is sent `{channel_message, Channel, Topic, Message}' with `Message'
%%% equal to what was published, at most once, and the messages of one publisher, channel and
%%% topic in the order in which they were published. There is no order across channels:
%%% priorities overtake.
%%%
%%% Where a subscription ends: when it is taken back or its process ends. It outlives the loss
%%% of a gateway: it is made again with the next one, and what was published in between is lost.
%%%
%%% Channels are those of the gateway, the ten and those of its configuration, and those that
%%% {@link start_link/2} starts.
%%% @end
-module(esdb_channel_server).

-export([start_link/2, subscribe/3, subscribe/4, unsubscribe/3, publish/3, publish/4,
         get_subscribers/2]).

-export_type([channel/0, topic/0, token/0, publish_error/0]).

-type channel() :: atom().
%% Such as `esdb_channel_events'.
-type topic() :: binary().
%% 1 to 255 bytes.
-type token() :: binary() | esdb_capability:capability().
%% A signed {@link esdb_capability. capability}, in any form.
-type publish_error() ::
        rate_limited | signature_required | invalid_signature | missing_timestamp
      | invalid_timestamp | message_expired | overloaded | no_gateway | unknown_channel
      | {bad_topic, not_binary | empty | too_long} | too_large | too_deep | channel_down | badarg
      | {unauthorized, esdb_gater_verifier:reason() | capability_required}.
%% No gateway is `overloaded' by publications today: what it cannot deliver it counts.

-define(TIMEOUT, 5000).                 % ms; how long a gateway is waited for
-define(CALL_TIMEOUT, 10000).           % ms; a relay answers after ?TIMEOUT at the latest
-define(ASK_TIMEOUT, 2000).             % ms; other nodes, for their subscribers

%% @doc Starts a channel that this node serves, with the callbacks of a module: one of the user's
%% own ({@link esdb_channel}), or one of the ten, such as `esdb_channel_events', for its rate and rule
%% for signatures. The option `name' names the channel and registers its process; without it the
%% module's name does. The other options are the module's. `gen_server:stop/1' ends it.
%%
%% Every node with a gateway in common uses it by the functions below, and so does every process of
%% this node. A subscription ends with the process of the channel. Messages go from the process of
%% the channel to the subscribers directly, so that priorities have no effect on them. An answer may
%% be `channel_down': the process has ended, or its node does not answer.
-spec start_link(module(), #{name => channel(), term() => term()}) ->
          {ok, pid()} | ignore | {error, term()}.
start_link(Module, Options) when is_atom(Module), is_map(Options) ->
    esdb_channel_host:start_link(Module, Options).

%% @doc From now on `Pid', of any node, is sent the topic's messages. Subscribing twice is
%% subscribing once. On a channel that replays (`esdb_channel_health') the topic's last message
%% follows.
%%
%% Errors: `{bad_topic, _}', `badarg' (no pid, no atom), `unknown_channel', `overloaded' (the
%% gateway has as many subscriptions or nodes as it takes), `no_gateway' (none reached in 5 s),
%% `{name_in_use, Channel}' (a channel of the gateway's own whose name another process of this
%% node has).
-spec subscribe(channel(), topic(), pid()) -> ok | {error, term()}.
subscribe(Channel, Topic, Pid) when is_atom(Channel), is_pid(Pid) ->
    subscribe_by(Channel, Topic, Pid, {subscribe, Topic, Pid});
subscribe(_Channel, _Topic, _Pid) ->
    {error, badarg}.

%% @doc As `subscribe/3', with a capability token that grants `channel/subscribe' with
%% `esdb://default/channel/CHANNEL/TOPIC', for a gateway that asks for tokens. Where the token does
%% not allow it, `{unauthorized, Reason}' says why.
%%
%% The token is judged when the process subscribes, and when the subscription is made again at
%% another gateway. If it has expired by then the subscription ends, which is logged.
-spec subscribe(channel(), topic(), pid(), token()) -> ok | {error, term()}.
subscribe(Channel, Topic, Pid, Token) when is_atom(Channel), is_pid(Pid) ->
    case esdb_capability:jwt(Token) of
        {ok, Jwt} -> subscribe_by(Channel, Topic, Pid, {subscribe, Topic, Pid, Jwt});
        {error, Reason} -> {error, {unauthorized, Reason}}
    end;
subscribe(_Channel, _Topic, _Pid, _Token) ->
    {error, badarg}.

subscribe_by(Channel, Topic, Pid, Request) ->
    case {esdb_gater_bounds:topic(Topic), esdb_channel_host:hosts(Channel)} of
        {ok, []} -> at_relay_of(Channel, Pid, Request);
        {ok, Hosts} -> esdb_channel_host:subscribe(Hosts, Pid, Request);
        {{error, _} = Error, _} -> Error
    end.

%% @doc `Pid' is not sent the topic's messages any more. Unsubscribing the unknown is `ok'.
-spec unsubscribe(channel(), topic(), pid()) -> ok | {error, term()}.
unsubscribe(Channel, Topic, Pid) when is_atom(Channel), is_pid(Pid) ->
    case esdb_gater_bounds:topic(Topic) of
        ok -> unsubscribe_at(esdb_channel_host:hosts(Channel), Channel, Topic, Pid);
        {error, _} = Error -> Error
    end;
unsubscribe(_Channel, _Topic, _Pid) ->
    {error, badarg}.

unsubscribe_at([], Channel, Topic, Pid) -> at_relay_of(Channel, Pid, {unsubscribe, Topic, Pid});
unsubscribe_at(Hosts, _Channel, Topic, Pid) -> esdb_channel_host:unsubscribe(Hosts, Topic, Pid).

%% @doc Publishes a message, any term, to the topic's subscribers on all nodes.
%%
%% On a channel where the gateway refuses nothing (no rate, no required signature, and no capability
%% is asked for) `ok' says that the message is on its way: the publisher waits for nobody unless
%% the window of what it has under way is full, and gets `no_gateway' if that lasts
%% `gateway_timeout_ms'. What is under way when a gateway is lost is lost, counted, logged, and
%% told by the telemetry event `[esdb_gater, channel, dropped]' with the reason `gateway_lost'.
%%
%% On the other channels, and everywhere if the configuration says `{publish, confirmed}', `ok' says
%% that the gateway has taken it. The gateway judges in this order: `signature_required'
%% (the channel takes signed messages only, and this is none), `rate_limited', then whatever is
%% wrong with the signature. `no_gateway': none was reached, or none answered, in 5 s; in the
%% latter case the message may have been delivered.
%%
%% Nothing is sent of a message that no gateway takes: one of more than 64 MiB in the external
%% format is `too_large', one with more than 10,000 terms inside each other `too_deep'.
-spec publish(channel(), topic(), term()) -> ok | {error, publish_error() | (Refused :: term())}.
publish(Channel, Topic, Message) when is_atom(Channel) ->
    Confirm = maps:get(publish, esdb_gater_config:current(), windowed) =:= confirmed,
    publish_by(Channel, Topic, Message, {publish, Topic, Message}, Confirm);
publish(_Channel, _Topic, _Message) ->
    {error, unknown_channel}.

%% @doc As `publish/3', with options or with a capability token.
%%
%% With `#{confirm => true}' the answer is the gateway's on every channel: `ok' says that it has taken
%% the message. With `#{confirm => false}' it is as by `publish/3' without `{publish, confirmed}'.
%% What is no such map is `badarg'.
%%
%% The token is one that grants `channel/publish' with `esdb://default/channel/CHANNEL/TOPIC', for a
%% gateway that asks for tokens. It is judged before all else, by the gateway, which is waited for;
%% where it does not allow it, `{unauthorized, Reason}' says why.
-spec publish(channel(), topic(), term(), token() | #{confirm => boolean()}) ->
          ok | {error, publish_error() | (Refused :: term())}.
publish(Channel, Topic, Message, Options) when is_atom(Channel), is_map(Options) ->
    case Options of
        #{confirm := Confirm} when is_boolean(Confirm), map_size(Options) =:= 1 ->
            publish_by(Channel, Topic, Message, {publish, Topic, Message}, Confirm);
        #{} when map_size(Options) =:= 0 ->
            publish(Channel, Topic, Message);
        #{} ->
            {error, badarg}
    end;
publish(Channel, Topic, Message, Token) when is_atom(Channel) ->
    case esdb_capability:jwt(Token) of
        {ok, Jwt} -> publish_by(Channel, Topic, Message, {publish, Topic, Message, Jwt}, true);
        {error, Reason} -> {error, {unauthorized, Reason}}
    end;
publish(_Channel, _Topic, _Message, _Token) ->
    {error, unknown_channel}.

publish_by(Channel, Topic, Message, Request, true) ->
    published(Channel, Topic, Message, publish_confirmed(Channel, Request));
publish_by(Channel, Topic, Message, Request, false) ->
    case esdb_gater_bounds:measure(Topic, Message) of
        {ok, Bytes} ->
            %% A channel with a window belongs to the gateway.
            Answer = case esdb_gater_window:continue(Channel, Topic, Message, Bytes) of
                         none -> publish_first(Channel, Request, Bytes);
                         Continued -> Continued
                     end,
            published(Channel, Topic, Message, Answer);
        {error, _} ->
            published(Channel, Topic, Message, publish_confirmed(Channel, Request))
    end.

published(Channel, Topic, Message, Answer) ->
    esdb_gater_lineage:published(Channel, Topic, Message, Answer).

publish_first(Channel, Request, Bytes) ->
    case esdb_channel_host:hosts(Channel) of
        [] -> send(esdb_gater_window:find(Channel, ?TIMEOUT), Channel, Request, Bytes);
        Hosts -> esdb_channel_host:publish(Hosts, Request)
    end.

%% The hosts of a channel have bounds of their own.
publish_confirmed(Channel, Request) ->
    case esdb_channel_host:hosts(Channel) of
        [] -> publish_at_gateway(Channel, Request);
        Hosts -> esdb_channel_host:publish(Hosts, Request)
    end.

publish_at_gateway(Channel, Publish) ->
    case esdb_gater_bounds:publish(Publish) of
        ok -> confirm(esdb_gater_window:find(Channel, ?TIMEOUT), Channel, Publish);
        {error, _} = Error -> Error
    end.

send({ok, Window} = Found, Channel, {publish, Topic, Message} = Publish, Bytes) ->
    case esdb_gater_window:send(Window, Topic, Message, Bytes) of
        {error, confirm} -> confirm(Found, Channel, Publish);
        Answer -> Answer
    end;
send(NotFound, Channel, Publish, _Bytes) ->
    confirm(NotFound, Channel, Publish).

confirm({ok, Window}, _Channel, Publish) ->
    esdb_gater_window:call(Window, Publish, element(3, Publish));
confirm({none, Gateway}, Channel, Publish) ->
    case is_channel(Channel) of
        true -> send_to(esdb_gater_transport:address(Channel, Gateway), Publish);
        false -> {error, unknown_channel}
    end;
confirm({error, _} = Error, _Channel, _Publish) ->
    Error.

send_to(Address, Publish) ->
    try gen_server:call(Address, Publish, ?TIMEOUT)
    catch
        exit:{noproc, _} -> {error, unknown_channel};
        exit:_ -> {error, no_gateway}
    end.

%% A gateway has processes that are no channels: nothing is sent to them.
is_channel(Channel) ->
    case esdb_channel_sup:relay(Channel) of
        {ok, _} -> true;
        none -> is_map_key(Channel, esdb_gater_link:gateway_channels())
    end.

%% @doc The topic's subscribers on all nodes, in no order. Those of a node that does not answer
%% are left out.
-spec get_subscribers(channel(), topic()) -> [pid()].
get_subscribers(Channel, Topic) when is_atom(Channel) ->
    case {esdb_gater_bounds:topic(Topic), esdb_channel_host:hosts(Channel)} of
        {ok, []} -> of_gateway(Channel, Topic);
        {ok, Hosts} -> esdb_channel_host:get_subscribers(Hosts, Topic);
        {{error, _}, _} -> []
    end.

%% The gateway knows a node's relay, the relay knows the subscribers it stands for. Only the
%% supervisor of the relays is asked which process of a node that is: the channel's name may be
%% that of any process there.
of_gateway(Channel, Topic) ->
    Deadline = {abs, erlang:monotonic_time(millisecond) + ?ASK_TIMEOUT},
    AtGateway = at_gateway(Channel, Topic),
    Nodes = lists:usort([node(Pid) || Pid <- AtGateway]) -- [node()],
    Children = ask([{esdb_channel_sup, Node} || Node <- Nodes], which_children, Deadline),
    Elsewhere = [Relay || {ok, Relay} <- [relay_among(Channel, Cs) || Cs <- Children]],
    Here = case esdb_channel_sup:relay(Channel) of
               {ok, Own} -> [Own];
               none -> []
           end,
    Answers = ask(Here ++ Elsewhere, {get_local_subscribers, Topic}, Deadline),
    {Relays, Local} = lists:unzip([Answer || {_, _} = Answer <- Answers]),
    lists:usort(lists:append(Local) ++ (AtGateway -- Relays)).

at_gateway(Channel, Topic) ->
    case {esdb_gater_link:gateway(), is_channel(Channel)} of
        {{ok, Gateway}, true} ->
            try gen_server:call(esdb_gater_transport:address(Channel, Gateway),
                                {get_subscribers, Topic}, ?TIMEOUT) of
                Pids when is_list(Pids) -> Pids;
                _ -> []
            catch
                exit:_ -> []
            end;
        _ ->
            []
    end.

%% The answers of those who answer.
ask(Processes, Request, Deadline) ->
    collect(lists:foldl(fun(Process, Acc) ->
                            gen_server:send_request(Process, Request, Process, Acc)
                        end, gen_server:reqids_new(), Processes), Deadline).

collect(Requests, Deadline) ->
    case gen_server:receive_response(Requests, Deadline, true) of
        {{reply, Answer}, _Process, Rest} -> [Answer | collect(Rest, Deadline)];
        {_Error, _Process, Rest} -> collect(Rest, Deadline);
        _NoneOrTimeout -> []
    end.

%% A process is subscribed by the relay of its own node, or twice would not be once. Where
%% there is none, the relay here sees to it.
at_relay_of(Channel, Pid, Request) when node(Pid) =:= node() ->
    at_relay(Channel, Request);
at_relay_of(Channel, Pid, Request) ->
    try
        {ok, Relay} = relay_at(node(Pid), Channel),
        gen_server:call(Relay, Request, ?CALL_TIMEOUT)
    catch
        exit:_ -> at_relay(Channel, Request);
        error:{badmatch, _} -> at_relay(Channel, Request)
    end.

relay_at(Node, Channel) ->
    Supervisor = {esdb_channel_sup, Node},
    case relay_among(Channel, gen_server:call(Supervisor, which_children, ?CALL_TIMEOUT)) of
        {ok, _} = Ok ->
            Ok;
        none ->
            case esdb_gater_link:gateway_channels() of
                #{Channel := _} ->
                    Start = {start_child, esdb_channel_sup:child(Channel)},
                    gen_server:call(Supervisor, Start, ?CALL_TIMEOUT);
                #{} ->
                    none
            end
    end.

relay_among(Channel, Children) ->
    case lists:keyfind(Channel, 1, Children) of
        {_, Relay, worker, _} when is_pid(Relay) -> {ok, Relay};
        _ -> none
    end.

at_relay(Channel, Request) ->
    case ensure_relay(Channel) of
        {ok, Relay} ->
            try gen_server:call(Relay, Request, ?CALL_TIMEOUT)
            catch exit:_ -> {error, no_gateway}
            end;
        {error, _} = Error ->
            Error
    end.

%% Channels that only the gateway's configuration names get their relay when first needed.
ensure_relay(Channel) ->
    case esdb_channel_sup:relay(Channel) of
        {ok, _} = Ok ->
            Ok;
        none ->
            case esdb_gater_link:await_gateway(?TIMEOUT) of
                {ok, _} -> start_relay(Channel, esdb_gater_link:gateway_channels());
                {error, _} = Error -> Error
            end
    end.

start_relay(Channel, Channels) when is_map_key(Channel, Channels) ->
    esdb_channel_sup:start_channel(Channel);
start_relay(_Channel, _Channels) ->
    {error, unknown_channel}.
