%%% @doc A channel with callbacks of the user's own. The module of such a channel decides what is
%%% published on it and who subscribes to it; {@link esdb_channel_server:start_link/2} starts it.
%%%
%%% ```
%%% -module(orders).
%%% -behaviour(esdb_channel).
%%% init(_Options) -> {ok, 0}.
%%% handle_publish(_Topic, #{total := Total}, N) when Total > 0 -> {ok, N + 1};
%%% handle_publish(_Topic, _Message, _N) -> {error, no_total}.
%%% '''
%%% Callbacks run in the process of the channel, one at a time. One that raises or returns something
%%% else refuses what it was asked for with `{callback_failed, Callback}', which is logged; the
%%% channel goes on with the state it had.
%%%
%%% On several nodes a channel may be started under one name. A publication is judged by the
%%% callbacks of one of them, that of the publisher's node if there is one, and reaches the
%%% subscribers of all.
%%% @end
-module(esdb_channel).

-export([policy/1]).

-export_type([topic/0, policy/0]).

-type topic() :: binary().
%% 1 to 255 bytes.
-type policy() :: #{priority := critical | high | normal | low,
                    max_rate := pos_integer() | infinity,
                    requires_signature := boolean()}.
%% `max_rate' in messages per second and topic.

%% `Options' are those of {@link esdb_channel_server:start_link/2}.
-callback init(Options :: map()) -> {ok, State :: term()} | {error, Reason :: term()}.
%% An error refuses the message, and `publish' returns it.
-callback handle_publish(topic(), Message :: term(), State :: term()) ->
    {ok, State :: term()} | {error, Reason :: term()}.
%% An error refuses the subscriber, and `subscribe' returns it.
-callback handle_subscribe(topic(), pid(), State :: term()) ->
    {ok, State :: term()} | {error, Reason :: term()}.
%% Called for a subscriber that leaves, where an error keeps it and `unsubscribe' returns the error,
%% and for one that has ended.
-callback handle_unsubscribe(topic(), pid(), State :: term()) ->
    {ok, State :: term()} | {error, Reason :: term()}.
%% Any other message to the channel's process.
-callback handle_message(Message :: term(), State :: term()) ->
    {ok, State :: term()} | {error, Reason :: term()}.
-callback terminate(Reason :: term(), State :: term()) -> term().

%% Without them the channel is `normal', `infinity' and takes unsigned messages.
-callback priority() -> critical | high | normal | low.
-callback max_rate() -> pos_integer() | infinity.
-callback requires_signature() -> boolean().
%% Whether nobody publishes or subscribes without a token, whatever `capability_mode' is.
-callback requires_capability() -> boolean().
-optional_callbacks([priority/0, max_rate/0, requires_signature/0, requires_capability/0]).

%% @private The policy of one of the ten channels of `esdb_gater_config'.
-spec policy(atom()) -> policy().
policy(Channel) ->
    #{Channel := #{priority := Priority, max_rate := MaxRate, hmac := Hmac}} =
        esdb_gater_config:default_channels(),
    #{priority => Priority, max_rate => MaxRate, requires_signature => Hmac =:= required}.
