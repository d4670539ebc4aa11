%%% @private
%%% @doc The relays, one per channel; see {@link esdb_gater_relay}.
%%%
%%% A name says nothing of whose it is: channels may be called like any process of this node. So
%%% relays are found by what each of them has written down of itself, never by name.
-module(esdb_channel_sup).

-behaviour(supervisor).

-export([start_link/0, start_channel/1, relay/1, child/1]).
-export([init/1]).

%% Until a relay that is just being started again has written itself down.
-define(LOOKS, 50).
-define(LOOK_MS, 10).

-spec start_link() -> supervisor:startlink_ret().
start_link() ->
    supervisor:start_link({local, ?MODULE}, ?MODULE, []).

%% @doc The relay of a channel of this node, if it runs.
-spec relay(Channel :: atom()) -> {ok, pid()} | none.
relay(Channel) ->
    esdb_gater_relay:find(Channel).

%% @doc Starts the relay of one more channel, unless it runs, and gives it.
-spec start_channel(Channel :: atom()) -> {ok, pid()} | {error, term()}.
start_channel(Channel) ->
    try supervisor:start_child(?MODULE, child(Channel)) of
        {ok, Relay} -> {ok, Relay};
        {error, {already_started, _}} -> await(Channel, ?LOOKS);
        {error, {{already_started, _}, _}} -> {error, {name_in_use, Channel}};
        {error, Reason} -> {error, Reason}
    catch
        exit:_ -> {error, no_gateway}             % the application is not running
    end.

await(Channel, Looks) ->
    case relay(Channel) of
        {ok, _} = Ok -> Ok;
        none when Looks =:= 0 -> {error, no_gateway};
        none -> timer:sleep(?LOOK_MS), await(Channel, Looks - 1)
    end.

%% @doc How the relay of a channel is started.
-spec child(Channel :: atom()) -> supervisor:child_spec().
child(Channel) ->
    #{id => Channel, start => {esdb_gater_relay, start_link, [Channel]}}.

%% Also those that were started later, by what they had subscribed: after a crash of this process
%% nobody asks for them again.
-spec init([]) -> {ok, {supervisor:sup_flags(), [supervisor:child_spec()]}}.
init([]) ->
    Channels = esdb_gater_config:channels(esdb_gater_config:current()),
    Names = lists:usort(maps:keys(Channels) ++ esdb_gater_relay:channels()),
    ok = esdb_gater_names:await_free(Names),
    %% Ten a second: one relay after the other may be lost, a loop of crashes goes on upwards.
    {ok, {#{strategy => one_for_one, intensity => 100, period => 10}, [child(N) || N <- Names]}}.
