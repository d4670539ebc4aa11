%%% @private
%%% @doc The application's configuration: what there is, what it may be, and its form as the
%%% TOML file of the gateway program.
%%%
%%% An unknown key is a warning that names the nearest known one; a bad value is an error that
%%% names its key, as in `channels.esdb_channel_events.priority'.
%%% @end
-module(esdb_gater_config).

-include_lib("kernel/include/logger.hrl").

-export([check/1, load/0, environment/0, warn/1, describe/1, default_channels/0, channels/1, to_toml/1]).

-export_type([problem/0, warning/0, channel/0]).

-type problem() :: {bad_config, Key :: string(), Value :: term(), Expected :: string()}.
-type warning() :: {unknown_key, Key :: string(), Nearest :: string()}.
-type channel() :: #{priority := critical | high | normal | low,
                     max_rate := pos_integer() | infinity,
                     hmac := required | optional,
                     replay_last := boolean()}.
%% What a channel is like; `max_rate' in messages per second and topic.

%% A secret must not reach a log or a crash report.
-define(REDACTED, '...').

%% @doc The environment of this application, also before somebody has loaded it.
-spec environment() -> [{atom(), term()}].
environment() ->
    _ = case application:get_key(erl_esdb_gater, vsn) of
            {ok, _} -> ok;
            %% Where there is no such application the functions work all the same.
            undefined -> application:load(erl_esdb_gater)
        end,
    application:get_all_env(erl_esdb_gater).

%% @doc Checks the environment of this application, warns of what it does not know.
-spec load() -> {ok, map()} | {error, problem()}.
load() ->
    case check(environment()) of
        {ok, Config, Warnings} -> lists:foreach(fun warn/1, Warnings), {ok, Config};
        {error, _} = Error -> Error
    end.

%% @doc Logs a warning.
-spec warn(warning()) -> ok.
warn({unknown_key, Key, Nearest}) ->
    ?LOG_WARNING("erl_esdb_gater: unknown configuration key ~ts; did you mean ~ts?",
                 [Key, Nearest], #{application => erl_esdb_gater}).

%% @doc A problem in words.
-spec describe(problem()) -> string().
describe({bad_config, Key, Value, Expected}) ->
    lists:flatten(io_lib:format("erl_esdb_gater: configuration key ~ts is ~tp, but must be ~ts",
                                [Key, Value, Expected])).

%% @doc Checks an environment. Gives nested maps of the known keys with their values; a key
%% that is not set is not in them.
-spec check([{atom(), term()}]) -> {ok, map(), [warning()]} | {error, problem()}.
check(Env) ->
    try
        {Config, Warnings} = section("", keys(), Env),
        ok = cross_check(Config),
        {ok, Config, Warnings}
    catch
        throw:{bad_config, _, _, _} = Problem -> {error, Problem}
    end.

%% Name => {section, Keys} | {each, Keys} (names are the user's) | {value, Check, Expected}.
keys() ->
    #{gateways => value(fun gateways/1, "a list of node names"),
      gateway_timeout_ms => value(fun(Ms) -> is_integer(Ms) andalso Ms >= 100 end,
                                  "milliseconds, a whole number from 100"),
      cluster => {section, #{ra_cluster_name => value(fun is_atom/1, "an atom")}},
      retry => {section, retry_keys()},
      channels => {each, channel_keys()},
      security => {section, security_keys()},
      tune_peers => value(fun is_boolean/1, "true or false"),
      lineage_scopes => value(fun is_boolean/1, "true or false"),
      telemetry_handlers => value(fun telemetry_handlers/1, "a list that may hold logger"),
      program => value(fun is_text/1, "the path of the program esdb-gater"),
      data_dir => value(fun is_text/1, "the path of a folder"),
      %% What the runtime system itself puts there.
      included_applications => value(fun is_list/1, "a list of applications")}.

retry_keys() ->
    #{base_delay_ms => value(fun non_neg/1, "milliseconds, a whole number from 0"),
      max_delay_ms => value(fun non_neg/1, "milliseconds, a whole number from 0"),
      max_attempts => value(fun pos/1, "a whole number from 1")}.

channel_keys() ->
    #{priority => value(fun(P) -> lists:member(P, [critical, high, normal, low]) end,
                        "critical, high, normal or low"),
      max_rate => value(fun(R) -> R =:= infinity orelse pos(R) end,
                        "messages per second, a whole number from 1, or infinity"),
      hmac => value(fun(H) -> lists:member(H, [required, optional]) end,
                    "required or optional"),
      replay_last => value(fun is_boolean/1, "true or false")}.

security_keys() ->
    #{hmac_secret => value(fun secret/1, "a binary or string that is not empty"),
      message_ttl_seconds => value(fun pos/1, "seconds, a whole number from 1")}.

value(Check, Expected) -> {value, Check, Expected}.

section(Path, Keys, Options) when is_map(Options) ->
    section(Path, Keys, maps:to_list(Options));
section(Path, Keys, Options) when is_list(Options) ->
    lists:foldl(fun(Option, Acc) -> option(Path, Keys, Option, Acc) end, {#{}, []}, Options);
section(Path, _Keys, Other) ->
    throw({bad_config, Path, Other, "a list of {Key, Value}"}).

option(Path, Keys, {Key, Value}, {Config, Warnings}) when is_atom(Key) ->
    Full = join(Path, Key),
    case Keys of
        #{Key := {section, Inner}} ->
            {Sub, More} = section(Full, Inner, Value),
            {Config#{Key => Sub}, Warnings ++ More};
        #{Key := {each, Inner}} ->
            {Sub, More} = each(Full, Inner, Value),
            {Config#{Key => Sub}, Warnings ++ More};
        #{Key := {value, Check, Expected}} ->
            case Check(Value) of
                true -> {Config#{Key => Value}, Warnings};
                false -> throw({bad_config, Full, shown(Key, Value), Expected})
            end;
        #{} ->
            {Config, Warnings ++ [{unknown_key, Full, join(Path, nearest(Key, maps:keys(Keys)))}]}
    end;
option(Path, _Keys, Other, _Acc) ->
    throw({bad_config, root(Path), Other, "a list of {Key, Value}"}).

each(Path, Keys, Options) when is_map(Options) ->
    each(Path, Keys, maps:to_list(Options));
each(Path, Keys, Options) when is_list(Options) ->
    lists:foldl(
      fun({Name, Values}, {Config, Warnings}) when is_atom(Name) ->
              {Sub, More} = section(join(Path, Name), Keys, Values),
              {Config#{Name => Sub}, Warnings ++ More};
         (Other, _) ->
              throw({bad_config, Path, Other, "a list of {Name, [{Key, Value}]}"})
      end, {#{}, []}, Options);
each(Path, _Keys, Other) ->
    throw({bad_config, Path, Other, "a list of {Name, [{Key, Value}]}"}).

cross_check(Config) ->
    Retry = maps:get(retry, Config, #{}),
    Base = maps:get(base_delay_ms, Retry, 100),
    case maps:get(max_delay_ms, Retry, 5000) of
        Max when Max < Base ->
            throw({bad_config, "retry.max_delay_ms", Max,
                   lists:flatten(io_lib:format("at least retry.base_delay_ms (~b)", [Base]))});
        _ ->
            ok
    end.

join("", Key) -> atom_to_list(Key);
join(Path, Key) -> Path ++ "." ++ atom_to_list(Key).

root("") -> "erl_esdb_gater";
root(Path) -> Path.

shown(hmac_secret, _) -> ?REDACTED;
shown(_, Value) -> Value.

gateways(List) ->
    is_list(List) andalso lists:all(fun is_node_name/1, List).

is_node_name(Name) when is_atom(Name) ->
    case string:split(atom_to_list(Name), "@") of
        [[_ | _], [_ | _]] -> true;
        _ -> false
    end;
is_node_name(_) ->
    false.

telemetry_handlers(List) ->
    is_list(List) andalso lists:all(fun(H) -> H =:= logger end, List).

secret(S) when is_binary(S) -> S =/= <<>>;
secret([_ | _] = S) -> is_text(S);
secret(_) -> false.

is_text(S) when is_binary(S) -> S =/= <<>>;
is_text([_ | _] = S) -> io_lib:char_list(S);
is_text(_) -> false.

non_neg(N) -> is_integer(N) andalso N >= 0.

pos(N) -> is_integer(N) andalso N > 0.

nearest(Key, Known) ->
    Name = atom_to_list(Key),
    {_, Nearest} = lists:min([{distance(Name, atom_to_list(K)), K} || K <- Known,
                                                                      K =/= included_applications]),
    Nearest.

%% Levenshtein distance, row by row.
distance(A, B) ->
    lists:last(lists:foldl(
        fun(CharA, [First | _] = Row) ->
            {NewRow, _, _} =
                lists:foldl(
                    fun({CharB, Above}, {[Left | _] = Acc, Diagonal, _}) ->
                        Cost = case CharA =:= CharB of true -> 0; false -> 1 end,
                        {[lists:min([Left + 1, Above + 1, Diagonal + Cost]) | Acc], Above, ok}
                    end, {[First + 1], First, ok}, lists:zip(B, tl(Row))),
            lists:reverse(NewRow)
        end, lists:seq(0, length(B)), A)).

%% @doc The channels there are without configuration.
-spec default_channels() -> #{atom() => channel()}.
default_channels() ->
    Channel = fun(Priority, MaxRate, Hmac) ->
                  #{priority => Priority, max_rate => MaxRate, hmac => Hmac, replay_last => false}
              end,
    Health = Channel(high, 100, optional),
    #{esdb_channel_alerts => Channel(critical, infinity, required),
      esdb_channel_security => Channel(critical, infinity, required),
      esdb_channel_events => Channel(high, infinity, optional),
      esdb_channel_health => Health#{replay_last := true},
      esdb_channel_system => Channel(normal, infinity, optional),
      esdb_channel_metrics => Channel(normal, 10000, optional),
      esdb_channel_audit => Channel(normal, infinity, optional),
      esdb_channel_lifecycle => Channel(normal, infinity, optional),
      esdb_channel_logging => Channel(low, 1000, optional),
      esdb_channel_diagnostics => Channel(low, 100, optional)}.

%% @doc The channels of a checked configuration: the defaults, changed, and the user's own.
-spec channels(map()) -> #{atom() => channel()}.
channels(Config) ->
    Own = maps:get(channels, Config, #{}),
    Blank = #{priority => normal, max_rate => infinity, hmac => optional, replay_last => false},
    maps:fold(fun(Name, Changes, Acc) ->
                  Acc#{Name => maps:merge(maps:get(Name, Acc, Blank), Changes)}
              end, default_channels(), Own).

%% @doc A checked configuration as the file of the gateway program. The secret is not in it:
%% it goes by the environment.
-spec to_toml(map()) -> iodata().
to_toml(Config) ->
    [pairs_toml(maps:with([tune_peers], Config)),
     retry_toml(maps:get(retry, Config, #{})),
     security_toml(maps:with([message_ttl_seconds], maps:get(security, Config, #{}))),
     [channel_toml(Name, Values)
      || {Name, Values} <- lists:sort(maps:to_list(maps:get(channels, Config, #{})))]].

retry_toml(Retry) when map_size(Retry) =:= 0 -> [];
retry_toml(Retry) -> ["[retry]\n" | pairs_toml(Retry)].

security_toml(Security) when map_size(Security) =:= 0 -> [];
security_toml(Security) -> ["[security]\n" | pairs_toml(Security)].

channel_toml(Name, Values) ->
    ["[channels.", string_toml(atom_to_binary(Name)), "]\n" | pairs_toml(Values)].

pairs_toml(Map) ->
    [[atom_to_binary(Key), " = ", value_toml(Value), "\n"]
     || {Key, Value} <- lists:sort(maps:to_list(Map))].

value_toml(N) when is_integer(N) -> integer_to_binary(N);
value_toml(B) when is_boolean(B) -> atom_to_binary(B);
value_toml(A) when is_atom(A) -> string_toml(atom_to_binary(A)).

string_toml(Text) ->
    [$", [escaped(C) || C <- unicode:characters_to_list(Text)], $"].

escaped($") -> "\\\"";
escaped($\\) -> "\\\\";
escaped(C) when C < 32; C =:= 127 -> io_lib:format("\\u~4.16.0B", [C]);
escaped(C) -> unicode:characters_to_binary([C]).
