#!/usr/bin/env escript
%%! +pc unicode
%% Writes messages.txt: see README.md.
-mode(compile).

main(_) ->
    File = filename:join(filename:dirname(escript:script_name()), "messages.txt"),
    ok = file:write_file(File, [line(Name, Map) || {Name, Map} <- messages()]).

line(Name, Map) ->
    %% Between nodes the order of a map's keys is the sender's; it does not matter
    %% here, so it is one that every release writes alike.
    <<131, Term/binary>> = term_to_binary(Map, [deterministic, {minor_version, 2}]),
    Canonical = term_to_binary(lists:sort(maps:to_list(Map)),
                               [deterministic, {minor_version, 2}]),
    Mac = crypto:mac(hmac, sha256, <<"golden secret">>, Canonical),
    [Name, " ", hex(Term), " ", hex(Canonical), " ", base64:encode(Mac), "\n"].

hex(Bytes) -> string:lowercase(binary:encode_hex(Bytes)).

messages() ->
    [{"empty", #{}},
     {"alert", #{type => alert, level => critical, signed_at => 1700000000}},
     {"strings", #{list => "abc", empty => "", bytes => [0, 255], long => lists:duplicate(300, 7),
                   not_bytes => [1, 256], improper => [1, 2 | 3], nested => ["a", "b"]}},
     {"integers", maps:from_list([{N, -N} || N <- edges()])},
     {"floats", #{0.0 => 1.5, 1.0 => -1.0e300, 2 => 2.0, 1 => 1}},
     {"numbers_as_keys_inside", #{map => #{2 => a, 1.5 => b, 1 => c, 0.5 => d}}},
     {"equal_keys", #{1 => b, 1.0 => a}},
     {"atoms", #{'' => 'é', 'ÿ' => 'Ā', '日本' => list_to_atom(lists:duplicate(255, 8364)),
                 list_to_atom(lists:duplicate(255, 233)) => true}},
     {"binaries", #{<<>> => <<"x">>, <<5:3>> => <<1, 2, 3:2>>, <<"key">> => <<0:800>>}},
     {"tuples", #{{} => {a}, {a, b} => list_to_tuple(lists:seq(1, 300)), {a, a} => {{{}}}}},
     {"maps_as_keys", #{#{a => 1} => 1, #{b => 1} => 2, #{} => 3, #{a => 1, b => 2} => 4}},
     {"below_32_keys", #{map => atoms(31)}},
     {"above_32_keys", #{map => atoms(40)}},
     {"nested_above_32_keys", #{outer => #{inner => atoms(100)}}},
     {"every_type_as_key", maps:from_list([{K, K} || K <- [1, 1.5, atom, {1}, #{1 => 1}, [], [1], <<1>>]])},
     {"identifiers", #{pid => decode(<<88, 119, 3, "a@h", 1:32, 2:32, 3:32>>),
                       port => decode(<<120, 119, 3, "a@h", (1 bsl 40):64, 3:32>>),
                       reference => decode(<<90, 3:16, 119, 3, "a@h", 3:32, 1:32, 2:32, 3:32>>),
                       function => fun lists:map/2}}].

atoms(N) -> maps:from_list([{list_to_atom("key" ++ integer_to_list(I)), I} || I <- lists:seq(1, N)]).

edges() ->
    [0, 1, 255, 256, -1] ++
        [S * (1 bsl B) + D || S <- [1, -1], B <- [31, 63, 64, 2040], D <- [-1, 0, 1]].

decode(Bytes) -> binary_to_term(<<131, Bytes/binary>>).
