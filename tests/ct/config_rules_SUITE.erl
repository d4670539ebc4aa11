%% @doc The application and the program judge a configuration by the same rules. Every value of one
%% table is given to both: to the application as its environment, to the program as TOML.
-module(config_rules_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, suite/0, init_per_suite/1, end_per_suite/1]).
-export([good_values_are_good_on_both_sides/1, bad_values_are_bad_on_both_sides/1,
         channels_have_the_same_names_on_both_sides/1, unknown_keys_get_the_same_hints/1,
         an_empty_secret_of_the_environment_is_refused_on_both_sides/1,
         what_the_application_hands_over_is_accepted/1]).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [good_values_are_good_on_both_sides, bad_values_are_bad_on_both_sides,
     channels_have_the_same_names_on_both_sides, unknown_keys_get_the_same_hints,
     an_empty_secret_of_the_environment_is_refused_on_both_sides,
     what_the_application_hands_over_is_accepted].

init_per_suite(Config) ->
    [{world, gater_harness:new()} | Config].

end_per_suite(Config) ->
    gater_harness:stop(value(world, Config)).

%%% The table

numbers() ->
    [{"channels.c.max_rate", fun(N) -> channel(max_rate, N) end, 1, 16#ffffffff},
     {"security.message_ttl_seconds", fun(N) -> security(message_ttl_seconds, N) end, 1, 31622400},
     {"retry.max_attempts", fun(N) -> retry(max_attempts, N) end, 1, 16#ffffffff},
     {"retry.max_retries", fun(N) -> retry(max_retries, N) end, 0, 16#fffffffe},
     {"retry.max_delay_ms",
      fun(N) -> [{retry, [{base_delay_ms, 0}, {max_delay_ms, N}]}] end, 0, 16#ffffffff},
     {"retry.base_delay_ms",
      fun(N) -> [{retry, [{base_delay_ms, N}, {max_delay_ms, 16#ffffffff}]}] end, 0, 16#ffffffff},
     {"retry.deadline_ms", fun(N) -> retry(deadline_ms, N) end, 1, 16#ffffffff}].

words() ->
    [{"channels.c.priority", fun(W) -> channel(priority, W) end, [critical, high, normal, low]},
     {"channels.c.hmac", fun(W) -> channel(hmac, W) end, [required, optional]},
     {"channels.c.replay_last", fun(W) -> channel(replay_last, W) end, [true, false]},
     {"channels.c.max_rate", fun(W) -> channel(max_rate, W) end, [infinity]},
     {"retry.ambiguous", fun(W) -> retry(ambiguous, W) end, [retry, return]},
     {"retry.prefer", fun(W) -> retry(prefer, W) end, [any, local]},
     {"retry.deadline_ms", fun(W) -> retry(deadline_ms, W) end, [infinity]},
     {"capabilities.mode", fun(W) -> capabilities([{mode, W}, {roots, [did()]}]) end,
      [disabled, optional, required]},
     {"capability_mode", fun(W) -> [{capability_mode, W}, {capabilities, [{roots, [did()]}]}] end,
      [disabled, optional, required]},
     {"tune_peers", fun(W) -> [{tune_peers, W}] end, [true, false]},
     {"cluster.ra_cluster_name", fun(W) -> [{cluster, [{ra_cluster_name, W}]}] end, [any_name]}].

good() ->
    [{Key, With(N)} || {Key, With, Least, Most} <- numbers(), N <- [Least, Most]]
    ++ [{Key, With(W)} || {Key, With, Words} <- words(), W <- Words]
    ++ [{"security.hmac_secret", security(hmac_secret, <<"s">>)},
        {"security.hmac_secret", [{hmac_secret, <<"s">>}]},
        {"retry.max_retries", [{retry, [{max_attempts, 3}, {max_retries, 2}]}]},
        {"telemetry_handlers", [{telemetry_handlers, [logger]}]},
        {"telemetry_handlers", [{telemetry_handlers, [logger, opentelemetry]}]},
        %% The original has no roots.
        {"capability_mode", [{capability_mode, required}]},
        {"capabilities.audience", capabilities([{roots, [did(), did()]}, {audience, [did()]}])},
        {"data_dir", [{data_dir, <<"/tmp/somewhere">>}]}].

bad() ->
    [{Key, With(N)} || {Key, With, Least, Most} <- numbers(),
                       N <- [Least - 1, Most + 1, 1.5, <<"5">>, true, 1 bsl 62]]
    ++ [{Key, With(W)} || {Key, With, [First | _]} <- words(),
                          W <- [<<"true">>, <<>>, <<"unlimited">>, [First], 1.5],
                          not (Key =:= "cluster.ra_cluster_name" andalso is_binary(W)
                               andalso W =/= <<>>)]
    ++ [{"security.hmac_secret", security(hmac_secret, <<>>)},
        {"security.hmac_secret", security(hmac_secret, 5)},
        {"hmac_secret", [{hmac_secret, <<>>}]},
        {"retry.max_delay_ms", [{retry, [{base_delay_ms, 10}, {max_delay_ms, 9}]}]},
        {"retry.max_delay_ms", [{retry, [{base_delay_ms, 5001}]}]},
        {"retry.max_retries", [{retry, [{max_attempts, 3}, {max_retries, 3}]}]},
        {"telemetry_handlers", [{telemetry_handlers, [statsd]}]},
        {"capabilities.roots", capabilities([{mode, required}])},
        {"capabilities.roots", capabilities([{mode, optional}, {roots, []}])},
        {"capabilities.roots", capabilities([{roots, [did(), <<"did:key:z6Mk">>]}])},
        {"capabilities.roots", capabilities([{roots, did()}])},
        {"capabilities.audience", capabilities([{audience, [5]}])},
        {"data_dir", [{data_dir, <<>>}]},
        {"data_dir", [{data_dir, <<"a", 0>>}]},
        {"retry", [{retry, 5}]},
        {"channels.c", [{channels, [{c, 5}]}]}].

channel(Key, Value) -> [{channels, [{c, [{Key, Value}]}]}].
capabilities(Values) -> [{capabilities, Values}].
did() -> <<"did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK">>.
security(Key, Value) -> [{security, [{Key, Value}]}].
retry(Key, Value) -> [{retry, [{Key, Value}]}].

%%% The tests

good_values_are_good_on_both_sides(Config) ->
    ?assertEqual([], [{Env, App, Program}
                      || {_, Env} <- good(),
                         {App, Program} <- [{application(Env), program(toml(Env), Config)}],
                         App =/= good orelse Program =/= good]).

bad_values_are_bad_on_both_sides(Config) ->
    ?assertEqual([], [{Key, Env, App, Program}
                      || {Key, Env} <- bad(),
                         {App, Program} <- [{application(Env), program(toml(Env), Config)}],
                         App =/= {bad, Key} orelse Program =/= {bad, Key}]).

channels_have_the_same_names_on_both_sides(Config) ->
    Good = [mine, 'esdb_channel_events', 'ünïcode', 'with space', 'a.b', '_', '$1',
            list_to_atom(lists:duplicate(255, $x))],
    Bad = ['', net_kernel, rex, undefined, kernel_sup, code_server, esdb_channel_sup,
           esdb_gater_session, esdb_gater_worker_registry, esdb_gater_anything,
           erl_esdb_gater_sup | [Name || Name <- registered(), is_of_otp(Name)]],
    Judged = fun(Name) ->
                 Env = [{channels, [{Name, [{priority, low}]}]}],
                 {Name, application(Env), program(toml(Env), Config)}
             end,
    ?assertEqual([{Name, good, good} || Name <- Good], [Judged(Name) || Name <- Good]),
    ?assertEqual([{Name, bad, bad} || Name <- Bad],
                 [{Name, App, Program} || {_, {App, Key}, {Program, Key}}
                                              <- [Judged(Name) || Name <- Bad],
                                          Name <- [list_to_atom(Key -- "channels.")]]),
    Many = [{channels, [{list_to_atom("c" ++ integer_to_list(N)), []} || N <- lists:seq(1, 991)]}],
    ?assertEqual({{bad, "channels"}, {bad, "channels"}},
                 {application(Many), program(toml(Many), Config)}).

%% Those of Common Test and its tools come and go.
is_of_otp(Name) ->
    Names = [code_server, user, kernel_refc, kernel_safe_sup, application_controller, logger, rex,
             global_name_server, kernel_sup, standard_error, inet_db, init, file_server_2,
             erl_prim_loader, erl_signal_server, logger_sup, logger_proxy, erts_code_purger],
    lists:member(Name, Names).

unknown_keys_get_the_same_hints(Config) ->
    Unknown = [{"securty", "security", [{securty, [{hmac_secret, <<"s">>}]}]},
               {"retri", "retry", [{retri, []}]},
               {"chanels", "channels", [{chanels, []}]},
               {"security.hmac_secert", "security.hmac_secret", security(hmac_secert, 1)},
               {"message_ttl_seconds", "security.message_ttl_seconds", [{message_ttl_seconds, 1}]},
               {"security.message_ttl", "security.message_ttl_seconds", security(message_ttl, 1)},
               {"max_attemps", "retry.max_attempts", [{max_attemps, 1}]},
               {"channels.c.priorty", "channels.c.priority", channel(priorty, low)},
               {"gatewys", "gateways", [{gatewys, []}]},
               {"something_else", none, [{something_else, 1}]},
               {"channels.c.colour", none, channel(colour, 1)},
               {"retry.zzz", none, retry(zzz, 1)}],
    Expected = [{Key, Hint} || {Key, Hint, _} <- Unknown],
    ?assertEqual(Expected, [hint_of_application(Env) || {_, _, Env} <- Unknown]),
    ?assertEqual(Expected, [{Key, hint_of_program(Key, toml(Env), Config)} || {Key, _, Env} <- Unknown]),
    %% Keys of the original are known.
    ?assertMatch({ok, _, [{without_roots, "capability_mode"}]}, esdb_gater_config:check([{hmac_secret, <<"s">>},
                                                       {capability_mode, optional},
                                                       {retry, [{max_retries, 3}]}])).

an_empty_secret_of_the_environment_is_refused_on_both_sides(Config) ->
    ?assertEqual({bad, "security.hmac_secret"},
                 program(<<>>, [{"ESDB_GATER_SECRET", ""}], Config)),
    Beam = gater_shim:node(value(world, Config), [?MODULE]),
    {error, {erl_esdb_gater, {{bad_config, Key, _, _}, _}}} = gater_harness:on(Beam, fun() ->
        os:putenv("ESDB_GATER_SECRET", ""),
        application:ensure_all_started(erl_esdb_gater)
    end),
    ?assertEqual("security.hmac_secret", Key).

what_the_application_hands_over_is_accepted(Config) ->
    Refused = [{Env, Answer}
               || {_, Env} <- good(),
                  {ok, Checked, _} <- [esdb_gater_config:check(Env)],
                  Answer <- [program(iolist_to_binary(esdb_gater_config:to_toml(Checked)), Config)],
                  Answer =/= good],
    ?assertEqual([], Refused).

%%% Judging

application(Env) ->
    case esdb_gater_config:check(Env) of
        {ok, _, _} -> good;
        {error, {bad_config, Key, _, _}} -> {bad, Key}
    end.

hint_of_application(Env) ->
    {ok, _, [{unknown_key, Key, Hint}]} = esdb_gater_config:check(Env),
    {Key, Hint}.

%% A configuration that is good is used, for a question to a gateway that is not there.
program(Toml, Config) -> program(Toml, [], Config).

program(Toml, Variables, Config) ->
    case run(["cluster", "status"], Toml, Variables, Config) of
        {64, Text} ->
            {match, [Key]} = re:run(Text, "esdb-gater: (.+?)(?: \\(from .*\\))? (?:must|is) ",
                                    [{capture, all_but_first, list}, unicode, dotall]),
            {bad, Key};
        {1, _} ->
            good
    end.

%% The warnings of a gateway that then ends because of a name nobody can listen under.
hint_of_program(Key, Toml, Config) ->
    Listen = ["--listen", "192.0.2.1:1"],
    {_, Text} = run(["start" | Listen], Toml, [{"ESDB_GATER_LOG", "warn"}], Config),
    Pattern = ["unknown configuration key ", re:replace(Key, "\\.", "\\\\."),
               " in [^;\"]*(?:; did you mean ([^?]+)\\?)?"],
    case re:run(Text, Pattern, [{capture, all_but_first, list}]) of
        {match, [Hint]} -> Hint;
        {match, []} -> none
    end.

run(Command, Toml, Variables, Config) ->
    Dir = gater_harness:dir(value(world, Config)),
    File = filename:join(Dir, "rules.toml"),
    ok = file:write_file(File, Toml),
    %% It may hold a secret, and is refused when others can read it then.
    ok = file:change_mode(File, 8#600),
    Arguments = Command ++ ["--name", "rules@127.0.0.1", "--cookie", "c", "--config", File]
        ++ ["--data-dir" || hd(Command) =:= "start"]
        ++ [filename:join(Dir, "rules") || hd(Command) =:= "start"],
    %% A port sets no variable that is empty.
    Set = [Name ++ "=" ++ Text || {Name, Text} <- Variables],
    Port = open_port({spawn_executable, os:find_executable("env")},
                     [{args, Set ++ [gater_shim:program() | Arguments]},
                      binary, exit_status, stderr_to_stdout]),
    collect(Port, <<>>).

collect(Port, Text) ->
    receive
        {Port, {data, More}} -> collect(Port, <<Text/binary, More/binary>>);
        {Port, {exit_status, Status}} -> {Status, Text}
    after 20000 -> error({never_ended, Text})
    end.

%%% TOML: the same values, as somebody would write them

toml(Env) -> unicode:characters_to_binary([top(Pair) || Pair <- lists:sort(fun values_first/2, Env)]).

values_first({_, A}, {_, B}) -> not is_section(A) orelse is_section(B).

is_section([{_, _} | _]) -> true;
is_section(_) -> false.

top({channels, Channels}) when is_list(Channels) ->
    [case is_list(Values) of
         true -> ["[channels.", quoted(atom_to_binary(Name)), "]\n", pairs(Values)];
         false -> ["channels.", quoted(atom_to_binary(Name)), " = ", term(Values), "\n"]
     end || {Name, Values} <- Channels];
top({Section, [{_, _} | _] = Values}) ->
    ["[", atom_to_binary(Section), "]\n", pairs(Values)];
top({Key, Value}) ->
    pairs([{Key, Value}]).

pairs(Values) -> [[atom_to_binary(Key), " = ", term(Value), "\n"] || {Key, Value} <- Values].

term(N) when is_integer(N) -> integer_to_binary(N);
term(F) when is_float(F) -> float_to_binary(F, [{decimals, 2}]);
term(B) when is_boolean(B) -> atom_to_binary(B);
term(A) when is_atom(A) -> quoted(atom_to_binary(A));
term(B) when is_binary(B) -> quoted(B);
term(L) when is_list(L) -> ["[", lists:join(", ", [term(E) || E <- L]), "]"].

quoted(Text) ->
    [$", [case C of
              $" -> "\\\"";
              $\\ -> "\\\\";
              _ when C < 32 -> io_lib:format("\\u~4.16.0B", [C]);
              _ -> C
          end || C <- unicode:characters_to_list(Text)], $"].

value(Key, Config) ->
    {Key, Value} = lists:keyfind(Key, 1, Config),
    Value.
