%%% @doc The behaviour of a channel with callbacks. The callback module decides what may be
%%% published on the channel and who may subscribe to it. {@link esdb_channel_server:start_link/2}
%%% starts the channel.
%%%
%%% ```
%%% -module(orders).
%%% -behaviour(esdb_channel).
%%% init(_Options) -> {ok, 0}.
%%% handle_publish(_Topic, #{total := Total}, N) when Total > 0 -> {ok, N + 1};
%%% handle_publish(_Topic, _Message, _N) -> {error, no_total}.
%%% '''
%%% Callbacks run in the process of the channel, one at a time. If a callback raises an exception or
%%% returns an unexpected value, the request is refused with `{callback_failed, Callback}' and the
%%% failure is logged; the channel keeps its previous state.
%%%
%%% A channel may be started under one name on several nodes. A publication is checked by the
%%% callbacks on one of them, which is the node of the publisher if the channel runs there, and
%%% reaches the subscribers on all of them.
%%% @end
-module(esdb_channel).

-export([policy/1]).

-export_type([topic/0, policy/0]).

-type topic() :: binary().
%% A topic has 1 to 255 bytes.
-type policy() :: #{priority := critical | high | normal | low,
                    max_rate := pos_integer() | infinity,
                    requires_signature := boolean()}.
%% `max_rate' is in messages per second and topic.

%% `Options' are the options of {@link esdb_channel_server:start_link/2}.
-callback init(Options :: map()) -> {ok, State :: term()} | {error, Reason :: term()}.
%% An error refuses the message, and `publish' returns the error.
-callback handle_publish(topic(), Message :: term(), State :: term()) ->
    {ok, State :: term()} | {error, Reason :: term()}.
%% An error refuses the subscriber, and `subscribe' returns the error.
-callback handle_subscribe(topic(), pid(), State :: term()) ->
    {ok, State :: term()} | {error, Reason :: term()}.
%% Called for a subscriber that unsubscribes and for one that has ended. In the first case an error
%% keeps the subscription, and `unsubscribe' returns the error.
-callback handle_unsubscribe(topic(), pid(), State :: term()) ->
    {ok, State :: term()} | {error, Reason :: term()}.
%% Called for any other message to the process of the channel.
-callback handle_message(Message :: term(), State :: term()) ->
    {ok, State :: term()} | {error, Reason :: term()}.
-callback terminate(Reason :: term(), State :: term()) -> term().

%% Without these callbacks the priority is `normal', the rate is `infinity', and messages may be
%% unsigned.
-callback priority() -> critical | high | normal | low.
-callback max_rate() -> pos_integer() | infinity.
-callback requires_signature() -> boolean().
%% Whether publishing and subscribing require a token, whatever `capability_mode' is.
-callback requires_capability() -> boolean().
-optional_callbacks([priority/0, max_rate/0, requires_signature/0, requires_capability/0]).

%% @private Returns the policy of one of the ten channels of `esdb_gater_config'.
-spec policy(atom()) -> policy().
policy(Channel) ->
    #{Channel := #{priority := Priority, max_rate := MaxRate, hmac := Hmac}} =
        esdb_gater_config:default_channels(),
    #{priority => Priority, max_rate => MaxRate, requires_signature => Hmac =:= required}.
